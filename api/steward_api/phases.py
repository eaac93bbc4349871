"""Closed enums of the custom resources, with the sentence a user reads for each reason."""

from enum import StrEnum


class Phase(StrEnum):
    """Phases of both kinds. They only move forward; the last three are ends.

    ``UNKNOWN`` is never written: it is how a phase of a newer operator reads.
    """

    UNKNOWN = "Unknown"

    PENDING = "Pending"
    PREPARING = "Preparing"
    BACKING_UP = "BackingUp"
    DELETING = "Deleting"
    RECREATING = "Recreating"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


RESET_PHASES = (
    Phase.PENDING, Phase.PREPARING, Phase.BACKING_UP, Phase.DELETING, Phase.RECREATING,
    Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED,
)  # fmt: skip
RESTART_PHASES = (Phase.PENDING, Phase.RESTARTING, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)
ENDS = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})


class ServerPolicy(StrEnum):
    REQUIRE_STOPPED = "RequireStopped"
    STOP = "Stop"
    STOP_AND_START = "StopAndStart"


class Backup(StrEnum):
    DEFAULT = "Default"
    NONE = "None"
    COPY = "Copy"
    SNAPSHOT = "Snapshot"


class Provider(StrEnum):
    """How a backup is made and put back."""

    COPY = "Copy"
    SNAPSHOT = "Snapshot"


class BackupState(StrEnum):
    """Of one volume's backup. Only the last two allow the delete."""

    PENDING = "Pending"
    FAILED = "Failed"
    READY = "Ready"
    NOTHING_TO_BACK_UP = "NothingToBackUp"


class ContentsFrom(StrEnum):
    EMPTY = "Empty"
    BACKUP = "Backup"


class Strategy(StrEnum):
    AUTO = "Auto"
    IN_PLACE = "InPlace"
    RECREATE = "Recreate"


class RequesterKind(StrEnum):
    HUB_USER = "HubUser"
    HUB_SERVICE = "HubService"
    KUBERNETES_USER = "KubernetesUser"


class ConditionType(StrEnum):
    COMPLETE = "Complete"
    FAILED = "Failed"
    FINISHED = "Finished"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SERVER_STARTED = "ServerStarted"


class Reason(StrEnum):
    """Why a request is where it is. Shown in ``status.reason`` and in the REASON column."""

    # while it runs
    ACCEPTED = "Accepted"
    SCHEDULED = "Scheduled"
    WAITING_FOR_SERVER = "WaitingForServer"
    WAITING_FOR_OTHER = "WaitingForOtherRequest"
    WAITING_FOR_CLAIM = "WaitingForClaim"
    IN_PROGRESS = "InProgress"
    RETRYING = "Retrying"
    # good ends
    RESET = "Reset"
    RESTORED = "Restored"
    RESTARTED = "Restarted"
    JOINED = "JoinedOtherRestart"
    CANCELLED = "CancelledByRequest"
    # refusals and failures
    NOT_SUPPORTED = "NotSupported"
    NOT_ALLOWED = "NotAllowed"
    UNKNOWN_USER = "UnknownUser"
    UNKNOWN_VOLUME = "UnknownVolume"
    VOLUME_MISSING = "VolumeMissing"
    SERVER_RUNNING = "ServerRunning"
    SERVER_NOT_RUNNING = "ServerNotRunning"
    IN_USE_BY_OTHER_SERVER = "InUseByOtherServer"
    CLAIM_IN_USE = "ClaimInUse"
    STATICALLY_PROVISIONED = "StaticallyProvisioned"
    STALE = "Stale"
    EXPIRED = "Expired"
    UNSAFE_REPLAY = "UnsafeReplay"
    CANNOT_RECREATE = "CannotRecreate"
    PARTIAL_FAILURE = "PartialFailure"
    STOP_FAILED = "StopFailed"
    BACKUP_FAILED = "BackupFailed"
    BACKUP_INCOMPLETE = "BackupIncomplete"
    BACKUP_MISSING = "BackupMissing"
    RESTORE_FAILED = "RestoreFailed"
    IN_PLACE_NOT_POSSIBLE = "InPlaceNotPossible"
    TOO_MANY_RESTARTS = "TooManyRestarts"
    START_FAILED = "StartFailed"
    LAB_CRASHED = "LabCrashed"
    TIMED_OUT = "TimedOut"


SENTENCES: dict[Reason, str] = {
    Reason.ACCEPTED: "The request has been accepted.",
    Reason.SCHEDULED: "The request waits for its time.",
    Reason.WAITING_FOR_SERVER: "Waiting before the server may be restarted again.",
    Reason.WAITING_FOR_OTHER: "Another request for the same server or volume is running; this one comes next.",
    Reason.WAITING_FOR_CLAIM: "Waiting until the storage system has removed the old volume.",
    Reason.IN_PROGRESS: "The request is being carried out.",
    Reason.RETRYING: "A step was refused by the cluster and is being tried again.",
    Reason.RESET: "The selected volumes are new and empty.",
    Reason.RESTORED: "The content of the backup is back.",
    Reason.RESTARTED: "The server has been restarted and answers.",
    Reason.JOINED: "The server was already being restarted; it has been restarted once and answers.",
    Reason.CANCELLED: "The request was cancelled before anything was changed.",
    Reason.NOT_SUPPORTED: "This version of the operator cannot do what the request asks for. Nothing was changed.",
    Reason.NOT_ALLOWED: "The request is not allowed. Nothing was changed.",
    Reason.UNKNOWN_USER: "There is no user of this name with a server or a volume here.",
    Reason.UNKNOWN_VOLUME: "There is no volume of this name in the volume table.",
    Reason.VOLUME_MISSING: "The volume does not exist; the next start of the server creates it.",
    Reason.SERVER_RUNNING: "The server is running. Stop it first, then reset the volume.",
    Reason.SERVER_NOT_RUNNING: "The server is not running, so there is nothing to restart.",
    Reason.IN_USE_BY_OTHER_SERVER: "Another server of the same user has this volume open. Stop it first.",
    Reason.CLAIM_IN_USE: "Something else in the cluster has this volume open.",
    Reason.STATICALLY_PROVISIONED: "This volume was set up by hand and would not come back by itself.",
    Reason.STALE: "The volume has changed since the request was made. Look again, then ask again.",
    Reason.EXPIRED: "The request could not begin before its deadline. Nothing was changed.",
    Reason.UNSAFE_REPLAY: "The request was applied or restored by a tool and does not say which volume it means.",
    Reason.CANNOT_RECREATE: "The cluster would not let the volume be created again, so it was not deleted.",
    Reason.PARTIAL_FAILURE: "Some of the volumes were reset, others were not; each one's outcome is listed.",
    Reason.STOP_FAILED: "The server could not be stopped. Nothing was erased.",
    Reason.BACKUP_FAILED: "The backup could not be made, so nothing was erased.",
    Reason.BACKUP_INCOMPLETE: "Some files could not be read, so the backup is not complete and nothing was erased.",
    Reason.BACKUP_MISSING: "There is no such backup of this volume, or it is not complete.",
    Reason.RESTORE_FAILED: "The backup could not be put back. It is still there.",
    Reason.IN_PLACE_NOT_POSSIBLE: "This server cannot be restarted in place.",
    Reason.TOO_MANY_RESTARTS: "The server has been restarted too often in the last minutes to do it in place safely.",
    Reason.START_FAILED: "The server was stopped and did not start again. Start it from the home page.",
    Reason.LAB_CRASHED: "The server was restarted and ended before it answered.",
    Reason.TIMED_OUT: "The server did not answer in time after the restart.",
}

"""What a pass of the driver sees: which reads the next step needs, and which of the last ones are still good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from steward_api import names
from steward_api.phases import Phase, Provider
from steward_api.volumes import Volume

from steward_operator.core.model import Claim, Job, Pod, Refusal, Request, Snapshot, World
from steward_operator.core.plan_restart import is_answered_by
from steward_operator.core.settings import Settings
from steward_operator.core.steps import (
    AddFinalizer,
    AnnotateClaim,
    AnnotateSnapshot,
    CreateClaim,
    CreateJob,
    CreateSnapshot,
    DeleteClaim,
    DeleteJob,
    DeleteSnapshot,
    RemoveFinalizer,
    Step,
    TryCreateClaim,
    WriteStatus,
)
from steward_operator.kube.api import Json, KubeApi, KubeError

from .prober import Prober
from .sifter import Sifter
from .store import Key, Requests, Servers

SERVERS_ONLY = f"{names.COMPONENT}={names.SERVER_COMPONENT}"


@dataclass
class Look:
    """What was read of the cluster in this pass, for as long as a step does not make it old. None: to be read.

    A write that changes only the request hands back the request; what was seen of the rest stays good. The look at the
    pods after the lock is written is always new, and so is the one after anything that was waited for.
    """

    request: Json | None = None
    pods: list[Json] | None = None
    #: When the pods were looked at. What they show is not held against a later time: it may have come about since.
    since: datetime | None = None
    claims: list[Json] | None = None
    jobs: tuple[Job, ...] | None = None
    snapshots: tuple[Snapshot, ...] | None = None
    retained: frozenset[str] | None = None

    def after(self, step: Step, before: Request, written: Json | None) -> None:
        match step:
            case WriteStatus() | AddFinalizer() | RemoveFinalizer():
                self.request = written
                if before.kind == names.SERVER_RESTART or not isinstance(step, WriteStatus):
                    # A resize names the version of the pod that was looked at.
                    return
                if self.jobs:
                    # Never older than the Jobs: a pod's report is what a finished Job is asked for.
                    self.pods = None
                # Jobs are looked for as soon as the record speaks of a copy.
                self.jobs = self.snapshots = None
                self._enter(before.phase, Phase(step.status["phase"]))
            case TryCreateClaim():
                pass
            case CreateClaim() if written is not None and self.claims is not None:
                self.claims = [*self.claims, written]
            case DeleteClaim() | CreateClaim() | AnnotateClaim():
                self.claims = None
            case CreateSnapshot() | AnnotateSnapshot() | DeleteSnapshot():
                self.snapshots = None
            case CreateJob() | DeleteJob():
                self.pods = self.jobs = None
            case _:
                self.request = self.pods = self.claims = self.jobs = None

    def _enter(self, before: Phase, now: Phase) -> None:
        match before, now:
            case Phase.PREPARING, Phase.DELETING:
                # The pods were listed after the lock: no server of this user's can have come since. A delete names the
                # claim's version as it was seen then.
                pass
            case Phase.DELETING, Phase.RECREATING:
                # The claims were seen gone a moment ago; a creation is refused where one has come since.
                self.pods = None
            case _ if now is not before:
                self.pods = self.claims = None


class Reader:
    """Reads the cluster live, as much of it as the next step can depend on."""

    def __init__(
        self,
        kube: KubeApi,
        requests: Requests,
        servers: Servers,
        table: Mapping[str, Volume],
        settings: Settings,
        prober: Prober,
        now: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._requests = requests
        self._servers = servers
        self._table = table
        self._settings = settings
        self._prober = prober
        self._now = now
        self._all_pods = Sifter(lambda: kube.pages_of_pods(""))
        self._all_servers = Sifter(lambda: kube.pages_of_pods(SERVERS_ONLY))
        self._all_claims = Sifter(lambda: kube.pages_of_claims(""))
        self._all_snapshots = Sifter(kube.pages_of_snapshots)

    async def observe(self, key: Key, look: Look, answers: Mapping[str, Refusal | None]) -> World:
        """The request first, then what it is about: a lock found in it was there before the pods were listed."""
        kind, name = key
        if look.pods is None or look.since is None:
            look.since = self._now()
        if look.request is None:
            look.request = {"kind": kind, **await self._kube.get_request(kind, name)}
            self._requests.put(look.request)
        request = Request(look.request)
        if look.jobs is None:
            # Before the pods: what a finished Job's pod reported is there when the Job says that it has finished.
            look.jobs = await self._jobs_of(request)
        if look.snapshots is None:
            look.snapshots = await self._snapshots_of(request)
        if look.pods is None and look.claims is None:
            look.pods, look.claims = await self._objects_of(request)
        elif look.claims is None:
            look.claims = await self._claims_of(request)
        elif look.pods is None:
            look.pods = await self._pods_for(request, look.claims or ())
        if request.phase is Phase.RECREATING and look.retained is None:
            look.retained = await self._retained(request)
        now = look.since
        pods = tuple(Pod(pod) for pod in look.pods or ())
        own = [pod for pod in pods if pod.is_server and pod.user == request.user]
        recent = {pod.uid: self._servers.recent_restarts(pod, now) for pod in own}
        self._probe_new_instances(request, own)
        return World(
            now=now,
            request=request,
            pods=pods,
            claims=tuple(Claim(claim) for claim in look.claims or ()),
            jobs=look.jobs,
            snapshots=look.snapshots,
            retained=look.retained or frozenset(),
            others=self._requests.of_user(request.user, excluding=key),
            table=self._table,
            answers=dict(answers),
            recent_restarts=recent,
            answering=frozenset(pod.notebook.id for pod in own if pod.notebook and self._prober.has_answered(pod)),
            settings=self._settings,
        )

    async def _objects_of(self, request: Request) -> tuple[list[Json], list[Json]]:
        """Pods and claims, live: as much of them as the next step can depend on.

        A list that has to be consistent waits for the API server's cache, a tenth of a second on a quiet cluster;
        single objects do not. A list goes through everybody's objects, a page at a time, and keeps the request's own.
        """
        if request.kind == names.SERVER_RESTART:
            pods = await self._pods_of(request.user)
            if any(Pod(pod).server == request.server for pod in pods):
                return pods, []
            return await asyncio.gather(self._servers_of(request), self._claims_like(request))
        if request.phase is Phase.PENDING:
            claims, pods = await asyncio.gather(self._claims_like(request), self._pods_of(request.user))
            if any(Claim(claim).is_ours and Claim(claim).user == request.user for claim in claims):
                # Strangers' pods are looked for when the lock is on.
                return pods, claims
            return await self._servers_of(request), claims
        if request.phase is Phase.PREPARING and not request.status.get("ending"):
            return await asyncio.gather(self._everybodys_pods(request), self._claims_of(request))
        claims = await self._claims_of(request)
        return await self._pods_for(request, claims), claims

    async def _claims_of(self, request: Request) -> list[Json]:
        """Those that the record names: from its beginning on the request is about no others."""
        if request.phase is Phase.PENDING:
            return await self._claims_like(request)
        found = await asyncio.gather(
            *(_or_none(self._kube.get_claim(name)) for name in sorted(_claims_on_record(request)))
        )
        return [claim for claim in found if claim is not None]

    async def _claims_like(self, request: Request) -> list[Json]:
        """The user's, and those of users whose name differs in case only; and the backup that is to be put back."""

        def is_like(manifest: Json) -> bool:
            claim = Claim(manifest)
            return _is_like(claim.user, request) or claim.name == request.backup_to_restore

        return await self._all_claims.sift(is_like)

    async def _servers_of(self, request: Request) -> list[Json]:
        """The user's, shown by the watch already or not, and those of users whose name differs in case only."""
        return await self._all_servers.sift(lambda pod: _is_like(Pod(pod).user, request))

    async def _everybodys_pods(self, request: Request) -> list[Json]:
        """Everybody's pods that mount one of the claims on record, the user's servers, and the request's own pods.

        The one look that nothing may replace: after the lock is written, and before a claim is deleted.
        """
        recorded = _claims_on_record(request)

        def concerns(manifest: Json) -> bool:
            pod = Pod(manifest)
            is_own = pod.user == request.user or pod.labels.get(names.REQUEST) == request.uid
            return is_own or not recorded.isdisjoint(pod.claims)

        return await self._all_pods.sift(concerns)

    async def _pods_for(self, request: Request, claims: Iterable[Json]) -> list[Json]:
        """With nothing left to delete nobody else's pod is asked for; before that it would be a blind delete."""
        if _may_delete(request, claims):
            return await self._everybodys_pods(request)
        pods: list[Json] = []
        if _handles_copies(request):
            own = self._kube.pages_of_pods(f"{names.REQUEST}={request.uid}")
            pods += [pod async for page in own for pod in page]
        if request.status.get("podUID"):
            servers = await self._pods_of(request.user)
            is_shown = any(Pod(pod).server == request.server for pod in servers)
            pods += servers if is_shown else await self._servers_of(request)
        return pods

    async def _pods_of(self, user: str) -> list[Json]:
        """The user's servers, by the names that the watch has shown."""
        found = await asyncio.gather(*(_or_none(self._kube.get_pod(name)) for name in self._servers.names_of(user)))
        return [pod for pod in found if pod is not None]

    async def _jobs_of(self, request: Request) -> tuple[Job, ...]:
        if request.kind != names.VOLUME_RESET or not _handles_copies(request):
            return ()
        return tuple(Job(job) for job in await self._kube.list_jobs(f"{names.REQUEST}={request.uid}"))

    async def _snapshots_of(self, request: Request) -> tuple[Snapshot, ...]:
        """As soon as the record speaks of one, or a backup is to be put back, which may be one."""
        taken = any(map(_is_snapshot, _rows(request)))
        if not self._settings.snapshots.enabled or not (request.is_undo or taken):
            return ()
        named = {request.backup_to_restore, *((row.get("backup") or {}).get("name") for row in _rows(request))}
        found = await self._all_snapshots.sift(lambda snapshot: snapshot["metadata"]["name"] in named)
        return tuple(map(Snapshot, found))

    async def _retained(self, request: Request) -> frozenset[str]:
        """Old volumes that are released and kept. Without the right to see volumes nothing is told about them."""
        found = set()
        for row in _rows(request):
            if name := row.get("persistentVolume"):
                try:
                    volume = await self._kube.get_volume(name)
                except KubeError as error:
                    if error.is_gone or error.is_refusal:
                        continue
                    raise
                claimed = (volume["spec"].get("claimRef") or {}).get("uid")
                if volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain" and claimed == row["uid"]:
                    found.add(name)
        return frozenset(found)

    def _probe_new_instances(self, request: Request, pods: list[Pod]) -> None:
        """Ask every instance that is not the one to go; the queue hears of the answer."""
        stopped = request.status.get("podUID") if request.status.get("ending") else None
        for pod in pods:
            if pod.server != request.server or pod.notebook is None:
                continue
            if request.kind == names.SERVER_RESTART:
                going = request.status.get("containerID")
                wanted = is_answered_by(request, pod) or bool(going and pod.notebook.id != going)
            else:
                wanted = bool(stopped and pod.uid != stopped)
            if wanted:
                self._prober.watch(pod)


async def _or_none(read: Awaitable[Json]) -> Json | None:
    try:
        return await read
    except KubeError as error:
        if error.is_gone:
            return None
        raise


def _rows(request: Request) -> Iterable[Json]:
    return request.status.get("volumes") or ()


def _is_snapshot(row: Json) -> bool:
    return bool((row.get("backup") or {}).get("provider") == Provider.SNAPSHOT)


def _is_like(user: str, request: Request) -> bool:
    return user.casefold() == request.user.casefold()


def _claims_on_record(request: Request) -> frozenset[str]:
    """Names of the claims that the request is about: those to be reset, those of copies, the backup to put back.

    Whatever else bears the name of one, a snapshot of it for example, does not stand for it.
    """
    found = {request.backup_to_restore} if request.is_undo else set()
    for row in _rows(request):
        found.add(row["claim"])
        if (copy := (row.get("backup") or {}).get("name")) and not _is_snapshot(row):
            found.add(copy)
    return frozenset(found)


def _may_delete(request: Request, claims: Iterable[Json]) -> bool:
    """Whether what is looked at may be followed by a delete, without another look at everybody's pods."""
    if request.phase is Phase.PREPARING:
        return not request.status.get("ending")
    due = {row["uid"] for row in _rows(request)}
    is_left = any(claim["metadata"]["uid"] in due and not Claim(claim).is_deleting for claim in claims)
    return request.phase is Phase.DELETING and is_left


def _handles_copies(request: Request) -> bool:
    return request.is_undo or any("backup" in row for row in _rows(request))

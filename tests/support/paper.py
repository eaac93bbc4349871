"""A cluster on paper, and operators that act on it one call at a time.

It refuses what the API server refuses (preconditions, names that exist, protected claims), runs copies as
``steward_operator.copier`` does, and knows what is in every volume. `Leader` splits an operator's turn into what it really
is: read the request, read the rest, send one write. Anything may happen in between, another leader included, and a write
may arrive late. `PaperCluster` asserts the rules that may never break at the moment they could.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from steward_api import names
from steward_api.phases import ENDS, BackupState, Phase
from steward_operator.core.model import Claim, Job, Pod, Refusal, Request, World
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.settings import Settings
from steward_operator.core.steps import (
    AddFinalizer,
    AnnotateClaim,
    CreateClaim,
    CreateJob,
    DeleteClaim,
    DeleteJob,
    Done,
    Plan,
    RemoveFinalizer,
    StartServer,
    StopServer,
    TryCreateClaim,
    Wait,
    WriteStatus,
)

from .builders import NOW, TABLE, claim, pod, reset, stamp

Json = dict[str, Any]
ORDER = [
    Phase.PENDING,
    Phase.PREPARING,
    Phase.BACKING_UP,
    Phase.DELETING,
    Phase.RECREATING,
    Phase.SUCCEEDED,
]
SETTINGS = Settings(start_failure_timeout=30, stop_timeout=60, answer_timeout=60)


class Conflict(Exception):
    """A precondition does not hold, or the name is taken or gone."""


@dataclass
class Volume:
    """A claim and what is in it. ``mark`` and ``seal`` are the copy's own files."""

    manifest: Json
    content: str = ""
    mark: str = ""
    seal: Json | None = None

    @property
    def view(self) -> Claim:
        return Claim(copy.deepcopy(self.manifest))


@dataclass
class Leader:
    """One operator process: what it has read, and what it was told in this pass."""

    cluster: PaperCluster
    request: Request | None = None
    rest: Json = field(default_factory=dict)
    answers: dict[str, Refusal | None] = field(default_factory=dict)

    def read_request(self) -> None:
        self.request = self.cluster.read_request()

    def read_rest(self) -> None:
        self.rest = self.cluster.read_rest()

    def plan(self) -> Plan:
        if self.request is None or not self.rest:
            return Done()
        return plan_reset(
            World(
                now=self.cluster.now, request=self.request, table=TABLE, settings=SETTINGS,
                answers=dict(self.answers), **self.rest,
            )
        )  # fmt: skip

    def send(self) -> None:
        step = self.plan()
        if isinstance(step, Wait | Done):
            self.answers.clear()
            return
        assert self.request is not None
        self.cluster.arrive(step, self.request, self.answers)

    def send_late(self) -> None:
        """The write leaves, and its sender never learns what became of it."""
        step = self.plan()
        if not isinstance(step, Wait | Done | TryCreateClaim) and self.request is not None:
            self.cluster.on_their_way.append((step, self.request))

    def crash(self) -> None:
        self.request, self.rest = None, {}
        self.answers.clear()

    def turn(self) -> Plan:
        self.read_request()
        self.read_rest()
        step = self.plan()
        self.send()
        return step


class Wire:
    """How writes come to something on paper: at once, or some time later."""

    def __init__(self) -> None:
        self.on_their_way: list[tuple[Any, Request]] = []

    def arrive(self, step: Any, seen: Request, answers: dict[str, Refusal | None]) -> None:
        """The write reaches the API server, which may refuse it; a conflict tells its sender to look again."""
        try:
            answer = self._do(step, seen)
        except Conflict:
            return
        if hasattr(step, "key"):
            answers[step.key] = answer

    def deliver(self, number: int) -> None:
        """A write that was held up arrives."""
        if self.on_their_way:
            step, seen = self.on_their_way.pop(number % len(self.on_their_way))
            self.arrive(step, seen, {})

    def _do(self, step: Any, seen: Request) -> Refusal | None:
        """Carries out a write by somebody who had ``seen`` the request, or raises Conflict."""
        raise NotImplementedError


class PaperCluster(Wire):
    """One user's volumes and server, and one VolumeReset."""

    def __init__(self, *kinds: str, running: bool = False, used: bool = True, **spec: Any) -> None:
        super().__init__()
        self._versions = itertools.count(100)
        self._numbers = itertools.count(1)
        self.now: datetime = NOW
        self.request: Request | None = reset(*kinds, **spec)
        self.kinds = list(kinds)
        self.volumes: dict[str, Volume] = {}
        #: UIDs of claims that somebody deleted with kubectl.
        self.by_hand: set[str] = set()
        self._newest: dict[str, str] = {}
        for kind in ("home", *(k for k in kinds if k != "home")):
            status = {"phase": "Bound", "capacity": {"storage": "2Gi"}} if used else {}
            self._put(claim(kind, status=status), content=f"{kind} of old" if used else "")
        self.pods: dict[str, Json] = {}
        self.jobs: dict[str, Json] = {}
        self.deleted: list[str] = []
        self.refuse_creation = False
        self.unreadable = False
        self.slow = False
        if running:
            self.start_server()

    # -- what an operator reads ------------------------------------------------------------------------------------

    def read_request(self) -> Request | None:
        return copy.deepcopy(self.request)

    def read_rest(self) -> Json:
        return {
            "claims": tuple(volume.view for volume in self.volumes.values()),
            "pods": tuple(Pod(copy.deepcopy(manifest)) for manifest in self.pods.values()),
            "jobs": tuple(Job(copy.deepcopy(manifest)) for manifest in self.jobs.values()),
        }

    # -- what happens to writes ------------------------------------------------------------------------------------

    def _do(self, step: Any, seen: Request) -> Refusal | None:
        match step:
            case WriteStatus(status):
                self._write_status(status, seen)
            case AddFinalizer():
                self._finalizers([names.FINALIZER], seen)
            case RemoveFinalizer():
                self._finalizers([], seen)
            case TryCreateClaim():
                return Refusal(403, "denied") if self.refuse_creation else None
            case CreateClaim(template):
                return self._create_claim(template)
            case DeleteClaim(name, uid, version):
                self._delete_claim(name, uid, version, seen)
            case AnnotateClaim(name, uid, version, annotation, value):
                self._annotate(name, uid, version, annotation, value)
            case CreateJob(manifest):
                self._create_job(manifest)
            case DeleteJob(name, uid):
                if name not in self.jobs or self.jobs[name]["metadata"]["uid"] != uid:
                    raise Conflict
                del self.jobs[name]
                self.pods = {n: p for n, p in self.pods.items() if Pod(p).job != name}
            case StopServer(_, _, pod_uid):
                for manifest in self.pods.values():
                    if Pod(manifest).is_server and Pod(manifest).uid == pod_uid:
                        manifest["metadata"]["deletionTimestamp"] = stamp(self.now)
            case StartServer():
                if not self.start_server():
                    return Refusal(409, "A volume of this server is being reset.")
            case _:
                raise AssertionError(f"no such step here: {step}")
        return None

    def _write_status(self, status: Mapping[str, Any], seen: Request) -> None:
        if self.request is None or self.request.resource_version != seen.resource_version:
            raise Conflict
        before, after = self.request.phase, Phase(status["phase"])
        assert before not in ENDS, "a finished request writes nothing"
        if after in ORDER and before in ORDER:
            assert ORDER.index(after) >= ORDER.index(before), "phases never go back"
        if after in ENDS:
            assert not self.request.has_finalizer, "the finalizer goes first"
            assert not status.get("lockedClaims"), "nothing stays locked"
            for kind in self.kinds:
                assert self._is_there(kind), "no end while a claim is missing"
        self.request = Request({**self.request.manifest, "status": dict(status)})
        self._touch_request()

    def _touch_request(self, **meta: Any) -> None:
        assert self.request is not None
        changed = {**self.request.meta, "resourceVersion": str(next(self._versions)), **meta}
        self.request = Request({**self.request.manifest, "metadata": changed})

    def _finalizers(self, finalizers: list[str], seen: Request) -> None:
        if self.request is None or self.request.resource_version != seen.resource_version:
            raise Conflict
        if finalizers and self.request.is_deleting:
            raise Conflict
        self._touch_request(finalizers=finalizers)
        if self.request.is_deleting and not finalizers:
            self.request = None

    def _put(self, view: Claim, content: str = "") -> None:
        manifest: Json = copy.deepcopy(dict(view.manifest))
        manifest["metadata"]["resourceVersion"] = str(next(self._versions))
        self.volumes[view.name] = Volume(manifest, content)
        self._newest[view.name] = view.uid

    def _is_there(self, kind: str) -> bool:
        """Or it has been taken away by somebody else, and the request had no part in it."""
        name = f"{kind}-ann"
        return name in self.volumes or self._newest[name] in self.by_hand

    def _create_claim(self, template: Mapping[str, Any]) -> Refusal | None:
        name = template["metadata"]["name"]
        if name in self.volumes:
            raise Conflict
        if self.refuse_creation:
            return Refusal(403, "exceeded quota")
        manifest: Json = copy.deepcopy(dict(template))
        manifest["metadata"].update(uid=f"{name}-{next(self._numbers)}", creationTimestamp=stamp(self.now))
        self._put(Claim(manifest))
        return None

    def _delete_claim(self, name: str, uid: str, version: str, seen: Request) -> None:
        volume = self.volumes.get(name)
        if volume is None or volume.view.uid != uid or volume.view.resource_version != version:
            raise Conflict
        view = volume.view
        if view.is_backup:
            assert view.backup is None, "a backup that is complete is not taken away"
        else:
            self._judge_delete(view, seen)
        volume.manifest["metadata"]["deletionTimestamp"] = stamp(self.now)
        volume.manifest["metadata"]["resourceVersion"] = str(next(self._versions))
        if not self.slow:
            self.reap()

    def _judge_delete(self, view: Claim, seen: Request) -> None:
        assert view.user == "ann", "only the target user's objects"
        rows = {row["uid"]: row for row in seen.status.get("volumes") or ()}
        assert view.uid in rows, "no delete of what is not on record"
        assert view.uid not in self.deleted, "at most one delete"
        # A stranger may always come between the look and the delete; the user's own server may not.
        servers = [Pod(p) for p in self.pods.values() if Pod(p).is_server]
        assert not any(view.name in server.claims for server in servers), "no delete under a server"
        live = self.request
        assert live is not None
        assert view.name in (live.status.get("lockedClaims") or ()), "no delete without the lock"
        assert live.has_finalizer, "no delete that a deletion of the request could forget"
        if backup := rows[view.uid].get("backup"):
            assert backup["state"] in (BackupState.READY, BackupState.NOTHING_TO_BACK_UP)
            assert backup["state"] == BackupState.READY or not self.volumes[view.name].content, "something to back up"
            if backup["state"] == BackupState.READY:
                seal = self.volumes[backup["name"]].seal
                assert seal is not None
                assert self.volumes[backup["name"]].content == self.volumes[view.name].content, "the backup is complete"
        self.deleted.append(view.uid)

    def reap(self) -> None:
        """What pvc-protection does: a claim goes when no pod that was placed names it."""
        for name, volume in list(self.volumes.items()):
            if volume.view.is_deleting and not any(name in Pod(p).claims for p in self.pods.values()):
                del self.volumes[name]

    def _annotate(self, name: str, uid: str, version: str, annotation: str, value: str | None) -> None:
        volume = self.volumes.get(name)
        if volume is None or volume.view.uid != uid or volume.view.resource_version != version:
            raise Conflict
        annotations = volume.manifest["metadata"].setdefault("annotations", {})
        if value is None:
            annotations.pop(annotation, None)
        else:
            annotations[annotation] = value
        volume.manifest["metadata"]["resourceVersion"] = str(next(self._versions))

    def _create_job(self, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        if name in self.jobs:
            raise Conflict
        job: Json = copy.deepcopy(dict(manifest))
        job["metadata"]["uid"] = f"{name}-{next(self._numbers)}"
        self.jobs[name] = job
        labels = {**job["metadata"]["labels"], names.JOB_NAME: name}
        meta = {"name": f"{name}-pod", "uid": f"{name}-pod", "labels": labels, "creationTimestamp": stamp(self.now)}
        self.pods[f"{name}-pod"] = {
            "metadata": meta, "spec": job["spec"]["template"]["spec"], "status": {"phase": "Running"},
        }  # fmt: skip

    # -- what else happens -----------------------------------------------------------------------------------------

    def start_server(self) -> bool:
        """What the spawner does: a locked claim keeps the server from starting; missing claims are made."""
        locked = set((self.request.status.get("lockedClaims") or ()) if self.request else ())
        if self.request is not None and self.request.is_finished:
            locked = set()
        wanted = ["home-ann", *(f"{kind}-ann" for kind in self.kinds if kind != "home")]
        if locked & set(wanted) or any(Pod(p).is_server for p in self.pods.values()):
            return False
        if any(name in self.volumes and self.volumes[name].view.is_deleting for name in wanted):
            return False
        number = next(self._numbers)
        started = pod(claims=tuple(wanted), uid=f"pod-{number}", container=f"c-{number}", started=self.now)
        self.pods["jupyter-ann"] = copy.deepcopy(dict(started.manifest))
        for name in wanted:
            if name not in self.volumes:
                self._put(claim(name.removesuffix("-ann"), uid=f"{name}-{number}", created=self.now))
            self.volumes[name].manifest["status"] = {"phase": "Bound", "capacity": {"storage": "2Gi"}}
            self.volumes[name].content = (self.volumes[name].content + f" work-{number}").strip()
        return True

    def stop_server(self) -> None:
        self.pods.pop("jupyter-ann", None)
        if not self.slow:
            self.reap()

    def pods_go(self) -> None:
        """Deleted pods end."""
        self.pods = {n: p for n, p in self.pods.items() if "deletionTimestamp" not in p["metadata"]}
        if not self.slow:
            self.reap()

    def stranger(self) -> None:
        """Somebody else's pod on one of the claims comes, or goes."""
        if self.pods.pop("stranger", None) is None:
            stranger = pod(is_server=False, claims=(f"{self.kinds[0]}-ann",), uid="stranger")
            self.pods["stranger"] = copy.deepcopy(dict(stranger.manifest))
        self.reap()

    def delete_claim(self, number: int) -> None:
        """``kubectl delete pvc``, while the request is not over."""
        name = f"{self.kinds[number % len(self.kinds)]}-ann"
        if self.request is None or self.request.is_finished or name not in self.volumes:
            return
        volume = self.volumes[name]
        self.by_hand.add(volume.view.uid)
        volume.manifest["metadata"].setdefault("deletionTimestamp", stamp(self.now))
        volume.manifest["metadata"]["resourceVersion"] = str(next(self._versions))
        self.reap()

    def cancel(self) -> None:
        if self.request is not None:
            self.request = Request({**self.request.manifest, "spec": {**self.request.spec, "cancel": True}})
            self._touch_request()

    def delete_request(self) -> None:
        if self.request is None or self.request.is_deleting:
            return
        if self.request.has_finalizer:
            self._touch_request(deletionTimestamp=stamp(self.now))
        else:
            self.request = None
            # The garbage collector: Jobs belong to the request, backups do not.
            self.pods = {n: p for n, p in self.pods.items() if not Pod(p).job}
            self.jobs = {}
            self.reap()

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def copies_end(self) -> None:
        """Every copy that is on comes to its end, as ``copier.run`` would."""
        for name, job in self.jobs.items():
            if job.get("status"):
                continue
            manifest = self.pods.get(f"{name}-pod")
            source, target = (
                v["persistentVolumeClaim"]["claimName"] for v in job["spec"]["template"]["spec"]["volumes"]
            )
            if manifest is None or source not in self.volumes or target not in self.volumes:
                continue
            arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
            code, report = self._copy(job["metadata"]["uid"], self.volumes[source], self.volumes[target], arguments[-1])
            manifest["status"] = {
                "phase": "Failed" if code else "Succeeded",
                "containerStatuses": [{"name": "copy", "state": {"terminated": {"message": json.dumps(report)}}}],
            }
            kind = "Failed" if code else "Complete"
            job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "x", "message": "x"}]}

    def _copy(self, attempt: str, source: Volume, target: Volume, last: str) -> tuple[int, Json]:
        expected = last.removeprefix("--expect=") if last.startswith("--expect=") else ""
        if target.seal is not None:
            return 0, target.seal
        report = {"files": 1, "bytes": len(source.content), "checksum": f"sum of {source.content}"}
        if target.mark != attempt if target.mark else target.content:
            if expected == f"sum of {target.content}":
                return 0, {**report, "checksum": expected}
            return 6, {"error": "the volume is not empty"}
        if self.unreadable:
            return 3, {"unreadable": ["secret"], "count": 1}
        if expected and expected != report["checksum"]:
            return 5, {"error": "the backup is not what was written into it"}
        target.content = source.content
        target.mark = ""
        if not expected:
            target.seal = report
        return 0, report

    def copies_break_off(self) -> None:
        """Nodes die in the middle of copies; the Job controller begins them again."""
        for job in self.jobs.values():
            if job.get("status"):
                continue
            uid = job["metadata"]["uid"]
            _, target = (v["persistentVolumeClaim"]["claimName"] for v in job["spec"]["template"]["spec"]["volumes"])
            volume = self.volumes.get(target)
            if volume and volume.seal is None and (volume.mark == uid or not (volume.mark or volume.content)):
                volume.mark, volume.content = uid, "half"

    def forget_jobs(self) -> None:
        """Finished Jobs go by their own time to live."""
        for name in [n for n, job in self.jobs.items() if job.get("status")]:
            del self.jobs[name]
            self.pods.pop(f"{name}-pod", None)
        self.reap()

    # -- the end ---------------------------------------------------------------------------------------------------

    def settle(self, leader: Leader, turns: int = 200) -> None:
        """From now on nothing goes wrong any more: the request has to come to an end by itself."""
        self.refuse_creation = self.slow = False
        self.pods.pop("stranger", None)
        leader.crash()
        for _ in range(turns):
            step = leader.turn()
            if isinstance(step, Done):
                break
            if isinstance(step, Wait):
                self.pods_go()
                self.copies_end()
                self.reap()
                self.later(5)
        assert self.request is None or self.request.is_finished, self.request.status
        for kind in self.kinds:
            assert self._is_there(kind), f"{kind} is missing at the end"
            claim = self.volumes.get(f"{kind}-ann")
            assert claim is None or not claim.view.is_deleting or claim.view.uid in self.by_hand

    def is_anywhere(self, content: str) -> bool:
        return any(content in volume.content for volume in self.volumes.values())

"""Carries plans out: reads the cluster live, asks the core for one step, does it with preconditions, looks again."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steward_api import names
from steward_api.phases import Phase, Provider
from steward_api.volumes import Volume

from steward_operator.core.model import Claim, Job, Pod, Refusal, Request, Snapshot, World
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.plan_restart import is_answered_by, plan_restart
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
    Done,
    RemoveFinalizer,
    ResizePod,
    StartServer,
    Step,
    StopServer,
    TryCreateClaim,
    Wait,
    WriteStatus,
)
from steward_operator.hubapi.client import HubApi, HubError
from steward_operator.kube.api import Json, KubeApi, KubeError
from steward_operator.obs import events, metrics
from steward_operator.obs.log import audit, log

from .prober import Prober
from .store import Key, Requests, Servers

PLANS = {names.VOLUME_RESET: plan_reset, names.SERVER_RESTART: plan_restart}
#: More steps than any request needs in one go; beyond it something writes against us.
MOST_STEPS = 100
MOST_REMEMBERED = 10_000
#: Events that wait to be sent; beyond it the newest are dropped, because they are news and not record.
MOST_EVENTS = 2000
#: Seconds between two Events, so that a crowd of requests is not held up by the news of it.
EVENT_EVERY = 0.05
REFUSABLE = (
    CreateClaim, DeleteClaim, AnnotateClaim, CreateSnapshot, AnnotateSnapshot, DeleteSnapshot, CreateJob, ResizePod,
)  # fmt: skip
SERVERS_ONLY = f"{names.COMPONENT}={names.SERVER_COMPONENT}"


def utc_now() -> datetime:
    return datetime.now(UTC)


class LookAgain(Exception):
    """Something is not as it was when the step was planned."""


@dataclass
class Look:
    """What was read of the cluster in this pass, for as long as a step does not make it old. None: to be read.

    A write that changes only the request hands back the request; what was seen of the rest stays good. The look at the
    pods after the lock is written is always new, and so is the one after anything that was waited for.
    """

    request: Json | None = None
    pods: list[Json] | None = None
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
                now = Phase(step.status["phase"])
                if now is not before.phase:
                    self.claims = None
                    # Listed after the lock a moment ago: no server of this user's can have come since.
                    if (before.phase, now) != (Phase.PREPARING, Phase.DELETING):
                        self.pods = None
            case TryCreateClaim():
                pass
            case DeleteClaim() | CreateClaim() | AnnotateClaim():
                self.claims = None
            case CreateSnapshot() | AnnotateSnapshot() | DeleteSnapshot():
                self.snapshots = None
            case CreateJob() | DeleteJob():
                self.pods = self.jobs = None
            case _:
                self.request = self.pods = self.claims = self.jobs = None


class Driver:
    def __init__(
        self,
        kube: KubeApi,
        hub: HubApi,
        requests: Requests,
        servers: Servers,
        table: Mapping[str, Volume],
        settings: Settings,
        namespace: str,
        prober: Prober,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._kube = kube
        self._hub = hub
        self._requests = requests
        self._servers = servers
        self._table = table
        self._settings = settings
        self._namespace = namespace
        self._prober = prober
        self._now = now
        self._acted_for: dict[str, None] = {}
        self._events: asyncio.Queue[Json] = asyncio.Queue(MOST_EVENTS)
        # Requests for one user's objects are carried out one at a time.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def process(self, key: Key) -> float | None:
        """Bring one request as far as it goes now; seconds until the next look, or None to wait for an event."""
        known = self._requests.get(*key)
        if known is None or (known.is_finished and not known.has_finalizer):
            return None
        async with self._locks[known.user]:
            return await self._advance(key)

    async def _advance(self, key: Key) -> float | None:
        answers: dict[str, Refusal | None] = {}
        known = self._requests.get(*key)
        # What the watch has shown of a request that has not begun is good enough to begin with: the first write names
        # its version, and is refused when there is a newer one.
        look = Look(dict(known.manifest) if known and known.phase is Phase.PENDING else None)
        for _ in range(MOST_STEPS):
            try:
                world = await self._observe(key, look, answers)
            except KubeError as error:
                if error.is_gone:
                    self._requests.drop(*key)
                    return None
                raise
            plan = PLANS[world.request.kind](world)
            match plan:
                case Done():
                    return None
                case Wait():
                    return (plan.until - self._now()).total_seconds() if plan.until else None
                case _:
                    self._note_first_action(world, plan)
                    with metrics.step_duration.labels(type(plan).__name__).time():
                        try:
                            look.after(plan, world.request, await self._do(world, plan, answers))
                        except LookAgain:
                            look = Look()
        raise RuntimeError(f"no end after {MOST_STEPS} steps")

    async def _observe(self, key: Key, look: Look, answers: Mapping[str, Refusal | None]) -> World:
        """The request first, then what it is about: a lock found in it was there before the pods were listed."""
        kind, name = key
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
            look.claims = await self._kube.list_claims()
        elif look.pods is None:
            look.pods = await self._kube.list_pods("")
        if request.phase is Phase.RECREATING and look.retained is None:
            look.retained = await self._retained(request)
        now = self._now()
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
        single objects do not. The one list of all pods that nothing may replace is the one after the lock is written.
        """
        if request.kind == names.SERVER_RESTART:
            pods = await self._pods_of(request.user)
            if any(Pod(pod).server == request.server for pod in pods):
                return pods, []
            return await asyncio.gather(self._kube.list_pods(SERVERS_ONLY), self._kube.list_claims())
        if request.phase is Phase.PENDING:
            claims, pods = await asyncio.gather(self._kube.list_claims(), self._pods_of(request.user))
            if any(Claim(claim).is_ours and Claim(claim).user == request.user for claim in claims):
                # Strangers' pods are looked for when the lock is on.
                return pods, claims
            return await self._kube.list_pods(SERVERS_ONLY), claims
        if request.phase in (Phase.DELETING, Phase.RECREATING) and not _handles_pods(request):
            claims = await self._kube.list_claims()
            due = {row["uid"] for row in request.status.get("volumes") or ()}
            if not any(claim["metadata"]["uid"] in due and not Claim(claim).is_deleting for claim in claims):
                return [], claims
        return await asyncio.gather(self._kube.list_pods(""), self._kube.list_claims())

    async def _pods_of(self, user: str) -> list[Json]:
        """The user's servers, by the names that the watch has shown."""
        found = await asyncio.gather(*map(self._pod, self._servers.names_of(user)))
        return [pod for pod in found if pod is not None]

    async def _pod(self, name: str) -> Json | None:
        try:
            return await self._kube.get_pod(name)
        except KubeError as error:
            if error.is_gone:
                return None
            raise

    async def _jobs_of(self, request: Request) -> tuple[Job, ...]:
        volumes = request.status.get("volumes") or ()
        if request.kind != names.VOLUME_RESET or not (request.is_undo or any("backup" in row for row in volumes)):
            return ()
        return tuple(Job(job) for job in await self._kube.list_jobs(f"{names.REQUEST}={request.uid}"))

    async def _snapshots_of(self, request: Request) -> tuple[Snapshot, ...]:
        """As soon as the record speaks of one, or a backup is to be put back, which may be one."""
        volumes = request.status.get("volumes") or ()
        taken = any((row.get("backup") or {}).get("provider") == Provider.SNAPSHOT for row in volumes)
        if not self._settings.snapshots.enabled or not (request.is_undo or taken):
            return ()
        return tuple(Snapshot(snapshot) for snapshot in await self._kube.list_snapshots())

    async def _retained(self, request: Request) -> frozenset[str]:
        """Old volumes that are released and kept. Without the right to see volumes nothing is told about them."""
        found = set()
        for row in request.status.get("volumes") or ():
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

    def _note_first_action(self, world: World, step: Step) -> None:
        """A restart's first action is the resize, a reset's its write-ahead."""
        request = world.request
        first = ResizePod if request.kind == names.SERVER_RESTART else WriteStatus
        if isinstance(step, first) and "waitingUntil" not in request.status and request.uid not in self._acted_for:
            self._acted_for[request.uid] = None
            if len(self._acted_for) > MOST_REMEMBERED:
                self._acted_for.pop(next(iter(self._acted_for)))
            metrics.request_to_action.labels(request.kind).observe((world.now - request.created).total_seconds())

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

    async def _do(self, world: World, step: Step, answers: dict[str, Refusal | None]) -> Json | None:
        """The request as it is after a step that changed it; None after any other, and when it was not done."""
        request = world.request
        try:
            match step:
                case WriteStatus():
                    return await self._write_status(request, step.status)
                case AddFinalizer():
                    return await self._set_finalizers(request, [*_finalizers(request), names.FINALIZER])
                case RemoveFinalizer():
                    kept = [f for f in _finalizers(request) if f != names.FINALIZER]
                    return await self._set_finalizers(request, kept)
                case TryCreateClaim():
                    answers[step.key] = await self._try_create(step)
                case (
                    CreateClaim() | DeleteClaim() | AnnotateClaim() | CreateJob() | ResizePod()
                    | CreateSnapshot() | AnnotateSnapshot() | DeleteSnapshot()
                ):  # fmt: skip
                    await self._change(step)
                    answers[step.key] = None
                case DeleteJob():
                    await self._kube.delete_job(step.name, step.uid)
                case StopServer() | StartServer():
                    await self._refuse_old_news(request)
                    await self._ask_hub(step, answers)
        except KubeError as error:
            if error.is_conflict or error.is_already_there or error.is_gone:
                log(logging.INFO, "looking again", request=request.name, uid=request.uid, step=type(step).__name__)
                raise LookAgain from error
            if error.is_refusal and isinstance(step, REFUSABLE):
                answers[step.key] = Refusal(error.status, error.message)
                log(logging.WARNING, "refused", request=request.name, uid=request.uid, step=type(step).__name__,
                    answer=error.message)  # fmt: skip
                return None
            raise
        return None

    async def _try_create(self, step: TryCreateClaim) -> Refusal | None:
        """AlreadyExists comes after validation and admission, so it is the pass; so is quota, asked before them."""
        try:
            await self._kube.create_claim(step.template, dry_run=True)
        except KubeError as error:
            if error.is_already_there or (error.status == 403 and "exceeded quota" in error.message):
                return None
            if error.is_refusal:
                return Refusal(error.status, error.message)
            raise
        return None

    async def _change(
        self,
        step: CreateClaim | DeleteClaim | AnnotateClaim | CreateSnapshot | AnnotateSnapshot | DeleteSnapshot
        | CreateJob | ResizePod,
    ) -> None:  # fmt: skip
        match step:
            case CreateClaim():
                await self._kube.create_claim(step.template)
            case DeleteClaim():
                await self._kube.delete_claim(step.name, step.uid, step.resource_version)
            case AnnotateClaim():
                await self._kube.annotate_claim(
                    step.name, step.uid, step.resource_version, {step.annotation: step.value}
                )
            case CreateSnapshot():
                await self._kube.create_snapshot(step.manifest)
            case AnnotateSnapshot():
                await self._kube.annotate_snapshot(
                    step.name, step.uid, step.resource_version, {step.annotation: step.value}
                )
            case DeleteSnapshot():
                await self._kube.delete_snapshot(step.name, step.uid, step.resource_version)
            case CreateJob():
                await self._kube.create_job(step.manifest)
            case ResizePod():
                await self._kube.resize_pod(
                    step.name, step.uid, step.resource_version, names.NOTEBOOK_CONTAINER, step.resources
                )

    async def _refuse_old_news(self, request: Request) -> None:
        """The hub takes no preconditions, so that the request is read once more before it is asked for anything."""
        present = await self._kube.get_request(request.kind, request.name)
        if present["metadata"]["resourceVersion"] != request.resource_version:
            raise LookAgain

    async def _ask_hub(self, step: StopServer | StartServer, answers: dict[str, Refusal | None]) -> None:
        try:
            if isinstance(step, StopServer):
                await self._hub.stop_server(step.user, step.server)
            else:
                await self._hub.start_server(step.user, step.server)
        except HubError as error:
            answers[step.key] = Refusal(error.status, error.message)
        else:
            answers[step.key] = None

    async def _write_status(self, request: Request, status: Mapping[str, Any]) -> Json:
        patch = difference(request.status, status)
        written = await self._kube.patch_request_status(
            request.kind, request.name, str(request.meta["resourceVersion"]), patch
        )
        manifest: Json = {"kind": request.kind, **written}
        self._requests.put(manifest)
        if status["phase"] != request.status.get("phase"):
            log(logging.INFO, "phase", request=request.name, uid=request.uid, phase=status["phase"],
                reason=status["reason"])  # fmt: skip
            self._tell(manifest)
        if Request(manifest).is_finished:
            audit(manifest)
            metrics.finished.labels(request.kind, status["phase"], status["reason"]).inc()
        return manifest

    def _tell(self, manifest: Json) -> None:
        try:
            self._events.put_nowait(events.phase_event(manifest, self._namespace, self._now()))
        except asyncio.QueueFull:
            log(logging.WARNING, "event dropped", request=manifest["metadata"]["name"])

    async def send_events(self) -> None:
        """Runs for as long as the operator does. An Event is news: nothing waits for it, the status already says it."""
        while True:
            event = await self._events.get()
            await asyncio.sleep(EVENT_EVERY)
            try:
                await self._kube.create_event(event)
            except KubeError as error:
                log(logging.WARNING, "event not written", event=event["metadata"]["name"], problem=str(error))

    async def _set_finalizers(self, request: Request, finalizers: list[str]) -> Json:
        written = await self._kube.set_finalizers(
            request.kind, request.name, request.uid, str(request.meta["resourceVersion"]), finalizers
        )
        manifest: Json = {"kind": request.kind, **written}
        self._requests.put(manifest)
        return manifest


def _handles_pods(request: Request) -> bool:
    """Whether a reset has pods to look after once everything is deleted: of copies, or of a server that it stopped."""
    volumes = request.status.get("volumes") or ()
    return bool(request.is_undo or request.status.get("podUID") or any("backup" in row for row in volumes))


def _finalizers(request: Request) -> list[str]:
    return list(request.meta.get("finalizers") or ())


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) that turns one mapping into the other. Lists are replaced whole."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if nested := difference(old, value):
                patch[key] = nested
        elif key not in before or old != value:
            patch[key] = value
    return patch

"""Carries plans out: reads the cluster live, asks the core for one step, does it with preconditions, looks again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from steward_api import names
from steward_api.phases import Phase
from steward_api.volumes import Volume

from steward_operator.core.bounce import is_applied
from steward_operator.core.model import Pod, Refusal, Request, World
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.plan_restart import plan_restart
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
from steward_operator.obs import metrics
from steward_operator.obs.log import log

from .look import Look, Reader
from .prober import Prober
from .store import Key, Requests, Servers
from .teller import Teller

PLANS = {names.VOLUME_RESET: plan_reset, names.SERVER_RESTART: plan_restart}
#: More steps than any request needs in one go; beyond it something writes against us.
MOST_STEPS = 100
MOST_REMEMBERED = 10_000
#: Seconds until a resized pod is looked at without an event.
AFTER_RESIZE = 2.0
REFUSABLE = (
    CreateClaim, DeleteClaim, AnnotateClaim, CreateSnapshot, AnnotateSnapshot, DeleteSnapshot, CreateJob, ResizePod,
)  # fmt: skip


def utc_now() -> datetime:
    return datetime.now(UTC)


class LookAgain(Exception):
    """Something is not as it was when the step was planned."""


class Driver:
    def __init__(
        self,
        kube: KubeApi,
        hub: HubApi,
        requests: Requests,
        servers: Servers,
        table: Mapping[str, Volume],
        settings: Settings,
        prober: Prober,
        teller: Teller,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._kube = kube
        self._hub = hub
        self._requests = requests
        self._reader = Reader(kube, requests, servers, table, settings, prober, now)
        self._teller = teller
        self._now = now
        self._acted_for: dict[str, None] = {}

    async def process(self, key: Key) -> float | None:
        """Bring one request as far as it goes now; seconds until the next look, or None to wait for an event.

        Of one user's requests the caller lets one at a time be carried out.
        """
        known = self._requests.get(*key)
        if known is None:
            return None
        if known.is_finished and not known.has_finalizer and not self._teller.waits_for(known.uid):
            return None
        answers: dict[str, Refusal | None] = {}
        # What the watch has shown of a request that has not begun is good enough to begin with: the first write names
        # its version, and is refused when there is a newer one.
        look = Look(dict(known.manifest) if known.phase is Phase.PENDING else None)
        for _ in range(MOST_STEPS):
            try:
                world = await self._reader.observe(key, look, answers)
            except KubeError as error:
                if error.is_gone:
                    self._requests.drop(*key)
                    self._teller.is_gone(known)
                    return None
                raise
            self._teller.sees(world.request)
            plan = PLANS[world.request.kind](world)
            match plan:
                case Done():
                    latest = self._requests.get(*key)
                    if world.request.is_finished and latest and not latest.is_finished:
                        # The watch on the unfinished has nothing more to say of it.
                        self._requests.drop(*key)
                    return None
                case Wait():
                    return (plan.until - self._now()).total_seconds() if plan.until else None
                case _:
                    self._note_first_action(world, plan)
                    with metrics.step_duration.labels(type(plan).__name__).time():
                        try:
                            written = await self._do(world, plan, answers)
                        except LookAgain:
                            look = Look()
                            continue
                    if isinstance(plan, ResizePod) and _is_taken(plan, written):
                        # The kubelet's answer comes by the watch.
                        return AFTER_RESIZE
                    look.after(plan, world.request, written)
        raise RuntimeError(f"no end after {MOST_STEPS} steps")

    def _note_first_action(self, world: World, step: Step) -> None:
        """A restart's first action is the resize, a reset's its write-ahead."""
        request = world.request
        first = ResizePod if request.kind == names.SERVER_RESTART else WriteStatus
        if isinstance(step, first) and "waitingUntil" not in request.status and request.uid not in self._acted_for:
            self._acted_for[request.uid] = None
            if len(self._acted_for) > MOST_REMEMBERED:
                self._acted_for.pop(next(iter(self._acted_for)))
            metrics.request_to_action.labels(request.kind).observe((world.now - request.created).total_seconds())

    async def _do(self, world: World, step: Step, answers: dict[str, Refusal | None]) -> Json | None:
        """The request, pod or claim that was written, as it is now; None after any other step, or if not done."""
        request = world.request
        try:
            match step:
                case WriteStatus():
                    return await self._write_status(request, step.status)
                case AddFinalizer():
                    return await self._set_finalizers(request, [*_finalizers(request), names.FINALIZER])
                case RemoveFinalizer():
                    kept = [f for f in _finalizers(request) if f != names.FINALIZER]
                    written = await self._set_finalizers(request, kept)
                    if request.is_deleting:
                        self._teller.is_gone(request)
                    return written
                case TryCreateClaim():
                    answers[step.key] = await self._try_create(request, step)
                case CreateClaim():
                    created = await self._kube.create_claim(step.template)
                    answers[step.key] = None
                    return created
                case ResizePod():
                    resized = await self._kube.resize_pod(
                        step.name, step.uid, step.resource_version, names.NOTEBOOK_CONTAINER, step.resources
                    )
                    answers[step.key] = None
                    return resized
                case (
                    DeleteClaim() | AnnotateClaim() | CreateJob()
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

    async def _try_create(self, request: Request, step: TryCreateClaim) -> Refusal | None:
        """AlreadyExists comes after validation and admission, so it is the pass; so is quota, asked before them.

        A request that is being deleted only wants to know whether its namespace goes, and does without an answer.
        """
        try:
            await self._kube.create_claim(step.template, dry_run=True)
        except KubeError as error:
            refused = Refusal(error.status, error.message)
            if error.is_already_there or refused.is_quota or (request.is_deleting and error.is_transient):
                return None
            if error.is_refusal:
                return refused
            raise
        return None

    async def _change(
        self,
        step: DeleteClaim | AnnotateClaim | CreateSnapshot | AnnotateSnapshot | DeleteSnapshot
        | CreateJob,
    ) -> None:  # fmt: skip
        match step:
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

    async def _refuse_old_news(self, request: Request) -> None:
        """The hub takes no preconditions, so that the request is read once more before it is asked for anything."""
        present = await self._kube.get_request(request.kind, request.name)
        if present["metadata"]["resourceVersion"] != request.resource_version:
            raise LookAgain

    async def _ask_hub(self, step: StopServer | StartServer, answers: dict[str, Refusal | None]) -> None:
        try:
            if isinstance(step, StopServer):
                await self._hub.stop_server(step.user, step.server, step.pod_uid, step.container_id)
            else:
                await self._hub.start_server(step.user, step.server)
        except HubError as error:
            answers[step.key] = Refusal(error.status, error.message)
        else:
            answers[step.key] = None

    async def _write_status(self, request: Request, status: Mapping[str, Any]) -> Json:
        patch = difference(request.status, status)
        self._teller.sends(request, status)
        written = await self._kube.patch_request_status(
            request.kind, request.name, str(request.meta["resourceVersion"]), patch
        )
        manifest: Json = {"kind": request.kind, **written}
        self._requests.put(manifest)
        self._teller.sees(Request(manifest))
        return manifest

    async def _set_finalizers(self, request: Request, finalizers: list[str]) -> Json:
        written = await self._kube.set_finalizers(
            request.kind, request.name, request.uid, str(request.meta["resourceVersion"]), finalizers
        )
        manifest: Json = {"kind": request.kind, **written}
        self._requests.put(manifest)
        return manifest


def _is_taken(step: ResizePod, resized: Json | None) -> bool:
    """Whether the API server has written down what it took; something on its way may have changed it back."""
    container = Pod(resized).notebook if resized else None
    return container is not None and is_applied(container, step.resources)


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

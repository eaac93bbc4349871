"""What both kinds check before anything is touched, in order: the first rule that answers wins."""

from __future__ import annotations

from datetime import datetime, timedelta

from steward_api.phases import Phase, Reason

from .clock import format_time
from .model import World
from .status import fail, finish, step_or_wait, write_status
from .steps import Plan, Wait

#: Left on objects by tools that apply or restore them again and again.
REPLAY_LABELS = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name", "velero.io/restore-name",
                 "argocd.argoproj.io/instance")  # fmt: skip
REPLAY_ANNOTATIONS = ("argocd.argoproj.io/tracking-id", "meta.helm.sh/release-name")


def is_replayed(world: World) -> bool:
    """Whether Argo CD, Flux, Helm or Velero put the request here."""
    meta = world.request.meta
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    return any(key in labels for key in REPLAY_LABELS) or any(key in annotations for key in REPLAY_ANNOTATIONS)


def deadline(world: World) -> datetime:
    begin = world.request.not_before or world.request.created
    return begin + timedelta(seconds=world.request.spec.get("startingDeadlineSeconds", 600))


def known_users(world: World) -> frozenset[str]:
    """Raw names on the servers and claims of this namespace; the hub is never asked.

    A request that is at work has found its user, whose only claim may be gone for as long as it is made again; one
    that is over may have ended for want of that very user.
    """
    pods = {pod.user for pod in world.pods if pod.is_server}
    claims = {claim.user for claim in world.claims if claim.is_ours}
    at_work = {other.user for other in world.others if other.phase is not Phase.PENDING and not other.is_finished}
    return frozenset(pods | claims | at_work)


def refuse_unknown_user(world: World) -> Plan | None:
    users = known_users(world)
    user = world.request.user
    if user in users:
        return None
    near = sorted(known for known in users if known.casefold() == user.casefold())
    if near:
        return fail(world, Reason.UNKNOWN_USER, f"There is no user '{user}' here. Did you mean '{near[0]}'?")
    return fail(world, Reason.UNKNOWN_USER, f"There is no user '{user}' with a server or a volume here.")


def before_anything(world: World) -> Plan | None:
    """Cancelled, not allowed, not yet, or too late; None when the request may begin."""
    request = world.request
    if request.spec.get("cancel"):
        return finish(world, Phase.CANCELLED, Reason.CANCELLED)
    if not request.spec.get("requestedBy"):
        return fail(
            world,
            Reason.NOT_ALLOWED,
            "The request does not say who asked. Add spec.requestedBy with kind KubernetesUser and your user name.",
        )
    if request.has_unreadable_time:
        told = (
            f"The time in spec.notBefore, {request.spec['notBefore']}, cannot be read; write {format_time(world.now)}."
        )
        return fail(world, Reason.NOT_SUPPORTED, told)
    if request.not_before and world.now < request.not_before:
        step = write_status(
            world,
            Phase.PENDING,
            Reason.SCHEDULED,
            f"The request waits until {format_time(request.not_before)}.",
            waitingUntil=format_time(request.not_before),
        )
        return step_or_wait(world, step, Wait("scheduled", request.not_before))
    if world.now >= deadline(world):
        return fail(world, Reason.EXPIRED)
    return refuse_unknown_user(world)

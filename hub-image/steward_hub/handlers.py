"""The routes behind the buttons: authorise, check, create a request, show what became of it.

``/hub/api/steward/v1/users/{user_name}/…``. The argument names are what ``needs_scope`` filters by.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tornado.web as web
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.scopes import needs_scope
from steward_api import names
from steward_api.phases import RequesterKind, Strategy
from steward_api.requests import HUB_TTL_SECONDS, is_finished, requester, server_restart, volume_reset
from steward_api.volumes import Volume

from . import scopes
from .cluster import (
    ClusterAway,
    ClusterRefused,
    OperatorWatch,
    Requests,
    claims_of,
    delete_pod,
    pod_and_lab,
    snapshots_of,
)
from .states import Button, Card, Facts, derive
from .views import active_request, backups_of, claim_of, container_answers, is_same_action, summary

MOST_REQUESTS_A_MINUTE = 20
LONGEST_REASON = 256


@dataclass
class Steward:
    """What the handlers share: the table, the cluster, and a lock per target around look-and-create."""

    namespace: str
    table: Mapping[str, Volume]
    actions_off: str = ""
    has_snapshots: bool = False
    locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    recent: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def __post_init__(self) -> None:
        self.requests = Requests(self.namespace)
        self.operator = OperatorWatch(self.namespace)

    async def backups_of(self, user: str) -> Callable[[Volume, str], list[dict[str, Any]]]:
        """Looks for the user's backups once; the answer gives those of one volume and server. Raises `ClusterAway`."""
        claims = await claims_of(self.namespace, user, names.BACKUP_COMPONENT)
        snapshots = await snapshots_of(self.namespace, user) if self.has_snapshots else []
        return lambda volume, server: backups_of(claims, snapshots, volume, server)

    def seconds_to_wait(self, actor: str) -> float:
        """Until this actor may create another request; 0 now."""
        times = self.recent[actor]
        now = time.monotonic()
        while times and now - times[0] > 60:
            times.popleft()
        return 0.0 if len(times) < MOST_REQUESTS_A_MINUTE else 60 - (now - times[0])


class StewardHandler(APIHandler):
    def initialize(self, steward: Steward) -> None:
        self.steward = steward

    def target(self, user_name: str, server_name: str) -> tuple[Any, Any]:
        """The user and his spawner. 404 for either that is not known."""
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "No such user.")
        if server_name and server_name not in user.orm_spawners:
            raise web.HTTPError(404, "No such server.")
        return user, user.spawners[server_name]

    async def prepare(self) -> None:
        await super().prepare()
        self.set_header("Cache-Control", "no-store")

    def body(self, allowed: set[str]) -> dict[str, Any]:
        if not self.request.body.strip():
            return {}
        try:
            data = json.loads(self.request.body)
        except ValueError as error:
            raise web.HTTPError(400, f"The body is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise web.HTTPError(400, "The body must be a JSON object.")
        if unknown := sorted(set(data) - allowed):
            raise web.HTTPError(400, f"Unknown: {', '.join(unknown)}. Known: {', '.join(sorted(allowed))}.")
        reason = data.get("reason", "")
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
            raise web.HTTPError(400, f"reason must be text of at most {LONGEST_REASON} characters.")
        return data

    def requested_by(self) -> dict[str, str]:
        actor = self.current_user
        kind = RequesterKind.HUB_SERVICE if actor.__class__.__name__ == "Service" else RequesterKind.HUB_USER
        return requester(kind, actor.name)

    async def facts(self, spawner: Any, requests: list[dict[str, Any]]) -> Facts:
        status = spawner.notebook_status() if hasattr(spawner, "notebook_status") else None
        active = active_request(requests)
        return Facts(
            is_ready=bool(spawner.ready),
            pending=spawner.pending or "",
            container_answers=status is None or container_answers(status),
            active=active,
            operator_away=await self.steward.operator.away(),
            actions_off=self.steward.actions_off,
        )

    async def look(self, user: Any, spawner: Any) -> tuple[Card, list[dict[str, Any]]]:
        """The card, and this server's requests, newest first. 503 when the cluster is away."""
        try:
            requests = await self.of_server(user.name, spawner.name)
            return derive(await self.facts(spawner, requests)), requests
        except ClusterAway as away:
            raise web.HTTPError(503, "The cluster does not answer at the moment. Try again shortly.") from away
        except ClusterRefused as refused:
            raise web.HTTPError(503, _not_set_up(refused)) from refused

    async def of_server(self, user_name: str, server_name: str) -> list[dict[str, Any]]:
        requests = await self.steward.requests.of_user(user_name)
        return [r for r in requests if (r["spec"].get("server") or "") == (server_name or "")]

    async def create(self, user: Any, spawner: Any, button: Button, manifest_of: Any) -> None:
        """Look, refuse or join, create: one at a time for a target."""
        async with self.steward.locks[f"{user.name}/{spawner.name}"]:
            card, requests = await self.look(user, spawner)
            manifest = await manifest_of()
            active = active_request(requests)
            if active is not None:
                if is_same_action(active, manifest):
                    self.answer(202, {"request": summary(active), "joined": True})
                    return
                raise web.HTTPError(409, "Another request for this server is running. Wait until it is done.")
            if button not in card.buttons:
                raise web.HTTPError(409, card.refusals[button])
            actor = f"{manifest['spec']['requestedBy']['kind']}/{manifest['spec']['requestedBy']['name']}"
            if wait := self.steward.seconds_to_wait(actor):
                self.set_header("Retry-After", str(int(wait) + 1))
                raise web.HTTPError(429, f"Too many requests. Try again in {int(wait) + 1} seconds.")
            try:
                created = await self.steward.requests.create(manifest)
            except ClusterRefused as refused:
                raise web.HTTPError(409, f"The cluster refused the request: {refused.message}") from refused
            except ClusterAway as away:
                raise web.HTTPError(503, "The cluster does not answer at the moment. Try again shortly.") from away
            self.steward.recent[actor].append(time.monotonic())
        self.log.info("%s asked for %s of %s/%s", actor, created["metadata"]["name"], user.name, spawner.name)
        self.answer(202, {"request": summary(created), "joined": False})

    def answer(self, status: int, data: Mapping[str, Any]) -> None:
        self.set_status(status)
        self.write(json.dumps(data))


def _not_set_up(refused: ClusterRefused) -> str:
    return f"Restarts and resets are not set up completely on this hub; tell an administrator ({refused.message})."


class StateHandler(StewardHandler):
    """``GET …/server`` and ``…/servers/NAME``: the card."""

    @needs_scope(scopes.READ, scopes.RESTART, scopes.RESET, "admin:servers", "admin:users")
    async def get(self, user_name: str, server_name: str = "") -> None:
        user, spawner = self.target(user_name, server_name)
        volumes: list[dict[str, Any]] = []
        requests: list[dict[str, Any]] = []
        try:
            requests = await self.of_server(user.name, spawner.name)
            card = derive(await self.facts(spawner, requests))
            volumes = await self.volumes(user, spawner)
        except ClusterAway:
            away = Facts(is_ready=bool(spawner.ready), pending=spawner.pending or "", cluster_answers=False)
            card = derive(away)
        except ClusterRefused as refused:
            # Servers can be used all the same; only what needs requests cannot.
            off = Facts(bool(spawner.ready), spawner.pending or "", actions_off=_not_set_up(refused))
            card = derive(off)
        active = active_request(requests)
        last = next((r for r in requests if is_finished(r)), None)
        self.answer(
            200,
            {
                "server": {"name": spawner.name, "url": user.server_url(spawner.name)},
                "state": card.state,
                "title": card.title,
                "sentence": card.sentence,
                "next": card.following,
                "buttons": {b: {"allowed": b in card.buttons, "why": card.refusals.get(b, "")} for b in Button},
                "active": summary(active) if active else None,
                "last": summary(last) if last else None,
                "volumes": volumes,
            },
        )

    async def volumes(self, user: Any, spawner: Any) -> list[dict[str, Any]]:
        claims, backups = await asyncio.gather(
            claims_of(self.steward.namespace, user.name), self.steward.backups_of(user.name)
        )
        rows = []
        for kind, volume in sorted(self.steward.table.items(), key=lambda row: (row[0] != names.HOME, row[0])):
            claim = claim_of(claims, volume, spawner.name)
            capacity = volume.capacity
            if claim is not None:
                capacity = ((claim.status.capacity or {}) if claim.status else {}).get("storage") or (
                    claim.spec.resources.requests.get("storage", capacity)
                )
            refusal = volume.refusal or ("" if claim else "It does not exist yet; the next start creates it.")
            rows.append(
                {
                    "kind": kind,
                    "title": volume.title,
                    "description": volume.description,
                    "mountPath": volume.mount_path,
                    "capacity": capacity,
                    "uid": claim.metadata.uid if claim else None,
                    "resettable": not refusal,
                    "why": refusal,
                    "backup": str(volume.backup),
                    "backups": backups(volume, spawner.name),
                }
            )
        return rows


class RestartHandler(StewardHandler):
    """``POST …/server/restart``: body empty or ``{"strategy": "Auto", "reason": "…"}``."""

    @needs_scope(scopes.RESTART, "admin:servers")
    async def post(self, user_name: str, server_name: str = "") -> None:
        user, spawner = self.target(user_name, server_name)
        data = self.body({"strategy", "reason"})
        try:
            strategy = Strategy(data.get("strategy", Strategy.AUTO))
        except ValueError as error:
            raise web.HTTPError(400, f"strategy must be one of {', '.join(Strategy)}.") from error

        async def manifest() -> dict[str, Any]:
            return server_restart(
                user=user.name,
                server=spawner.name,
                strategy=strategy,
                requested_by=self.requested_by(),
                reason=data.get("reason", ""),
                ttl=HUB_TTL_SECONDS,
            )

        await self.create(user, spawner, Button.RESTART, manifest)


class ResetHandler(StewardHandler):
    """``POST …/server/reset``: ``{"volumes": ["workspace"], "expected": {"workspace": UID}, "reason": "…"}``.

    ``expected`` is what the user was looking at; left out, it is what is there now. With ``"putBack": "NAME"`` the one
    volume holds that backup afterwards instead of nothing.
    """

    @needs_scope(scopes.RESET, "admin:users")
    async def post(self, user_name: str, server_name: str = "") -> None:
        user, spawner = self.target(user_name, server_name)
        data = self.body({"volumes", "expected", "reason", "putBack"})
        kinds = data.get("volumes")
        if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) for k in kinds):
            raise web.HTTPError(400, "volumes must be a list with at least one volume.")
        expected = data.get("expected", {})
        if not isinstance(expected, dict) or not all(isinstance(v, str) and v for v in expected.values()):
            raise web.HTTPError(400, "expected must map volumes to UIDs.")
        put_back = data.get("putBack", "")
        if not isinstance(put_back, str) or (put_back and len(set(kinds)) != 1):
            raise web.HTTPError(400, "putBack must be the name of a backup, of exactly one volume.")
        for kind in kinds:
            if kind not in self.steward.table:
                raise web.HTTPError(400, f"There is no volume '{kind}'. There are: {', '.join(self.steward.table)}.")
            if refusal := self.steward.table[kind].refusal:
                raise web.HTTPError(400, refusal)

        async def manifest() -> dict[str, Any]:
            seen = dict(expected)
            try:
                claims = await claims_of(self.steward.namespace, user.name)
            except ClusterAway as away:
                raise web.HTTPError(503, "The cluster does not answer at the moment. Try again shortly.") from away
            for kind in set(kinds):
                claim = claim_of(claims, self.steward.table[kind], spawner.name)
                if claim is None:
                    raise web.HTTPError(409, f"The volume '{kind}' does not exist yet; the next start creates it.")
                seen.setdefault(kind, claim.metadata.uid)
            if put_back:
                await self.refuse_unknown_backup(user, spawner, kinds[0], put_back)
            return volume_reset(
                user=user.name,
                server=spawner.name,
                expected={kind: seen[kind] for kind in set(kinds)},
                put_back=put_back,
                requested_by=self.requested_by(),
                reason=data.get("reason", ""),
                ttl=HUB_TTL_SECONDS,
            )

        await self.create(user, spawner, Button.VOLUMES, manifest)

    async def refuse_unknown_backup(self, user: Any, spawner: Any, kind: str, name: str) -> None:
        try:
            backups = await self.steward.backups_of(user.name)
        except ClusterAway as away:
            raise web.HTTPError(503, "The cluster does not answer at the moment. Try again shortly.") from away
        if name not in [backup["name"] for backup in backups(self.steward.table[kind], spawner.name)]:
            raise web.HTTPError(404, f"There is no backup '{name}' of this volume.")


class StopHandler(UserServerAPIHandler):
    """``POST …/server/stop``: ``{"podUID": UID}``. The hub's own stop, of that very pod and no other.

    With ``containerID``, too, only while its lab is that very instance.

    For the operator, whose request may arrive late: the hub's DELETE would end whatever runs by then, or break a start
    off. What the hub has forgotten is stopped, too.
    """

    SUPPORTED_METHODS = ("POST",)

    def initialize(self, steward: Steward) -> None:
        self.steward = steward

    @needs_scope("delete:servers")
    async def post(self, user_name: str, server_name: str = "") -> None:
        user = self.find_user(user_name)
        if user is None or (server_name and server_name not in user.orm_spawners):
            raise web.HTTPError(404, "No such server.")
        body = self.get_json_body()
        wanted = body.get("podUID") if isinstance(body, dict) and set(body) <= {"podUID", "containerID"} else None
        instance = body.get("containerID", "") if wanted else ""
        if not (isinstance(wanted, str) and wanted and isinstance(instance, str)):
            raise web.HTTPError(
                400,
                "The body must be podUID, the UID of the pod that is to be stopped, and containerID, or podUID alone.",
            )
        spawner = user.spawners[server_name]
        try:
            if not await self.is_there(spawner.pod_name, wanted, instance):
                self.set_status(204)
                return
            await self.delete(user_name, server_name)
            # That took its time: what was looked at may be gone by now.
            if not spawner.active and await self.is_there(spawner.pod_name, wanted, instance):
                # One failed call is enough for the hub to forget a server whose pod runs on: it takes it for stopped
                # from then on and does nothing more about it.
                self.log.info("Deleting the pod %s of a server that the hub takes for stopped", spawner.pod_name)
                await delete_pod(self.steward.namespace, spawner.pod_name, wanted, spawner.delete_grace_period)
        except (ClusterAway, ClusterRefused) as problem:
            raise web.HTTPError(503, "The cluster does not answer at the moment. Try again shortly.") from problem

    async def is_there(self, pod_name: str, wanted: str, instance: str) -> bool:
        """Whether there is a pod. 409 where it is not the one of the UID ``wanted``, or its lab not that instance."""
        present, lab = await pod_and_lab(self.steward.namespace, pod_name)
        if present and present != wanted:
            raise web.HTTPError(409, "Another pod of this server runs by now; it was not stopped.")
        if present and instance not in ("", lab):
            raise web.HTTPError(409, "The server has been restarted meanwhile; it was not stopped.")
        return bool(present)


class CancelHandler(StewardHandler):
    """``POST …/requests/NAME/cancel``: calls a request off that has not changed anything yet."""

    @needs_scope(scopes.RESTART, scopes.RESET, "admin:servers")
    async def post(self, user_name: str, name: str) -> None:
        self.target(user_name, "")
        kind = next((k for k in names.PLURALS if name.startswith(f"{k.lower()}-")), None)
        try:
            if kind is None:
                raise web.HTTPError(404, "No such request.")
            found = await self.steward.requests.get(kind, name)
            if found["spec"]["user"] != user_name:
                raise web.HTTPError(404, "No such request.")
            needed = scopes.RESTART if kind == names.SERVER_RESTART else scopes.RESET
            over = "admin:servers" if kind == names.SERVER_RESTART else "admin:users"
            if not (self.has_scope(f"{needed}!user={user_name}") or self.has_scope(over)):
                raise web.HTTPError(404, "No such request.")
            if is_finished(found):
                raise web.HTTPError(409, "The request has already ended.")
            self.answer(202, {"request": summary(await self.steward.requests.cancel(kind, name))})
        except ClusterRefused as refused:
            status = 404 if refused.status == 404 else 409
            raise web.HTTPError(status, refused.message if status == 409 else "No such request.") from refused
        except ClusterAway as away:
            raise web.HTTPError(503, "The cluster does not answer at the moment. Try again shortly.") from away


def handlers(steward: Steward) -> list[tuple[str, type[APIHandler], dict[str, Any]]]:
    users = r"/api/steward/v1/users/([^/]+)"
    shared = {"steward": steward}
    found: list[tuple[str, type[APIHandler], dict[str, Any]]] = []
    for server in (r"/server", r"/servers/([^/]*)"):
        found += [
            (rf"{users}{server}", StateHandler, shared),
            (rf"{users}{server}/restart", RestartHandler, shared),
            (rf"{users}{server}/reset", ResetHandler, shared),
            (rf"{users}{server}/stop", StopHandler, shared),
        ]
    found.append((rf"{users}/requests/([a-z0-9.-]+)/cancel", CancelHandler, shared))
    return found

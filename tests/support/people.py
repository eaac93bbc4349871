"""People and machines at random on a real API server: requests, servers that start and stop, claims deleted by hand.

Whatever the order, every request ends, every volume is there, and nothing was deleted that was not on record and, where
due, in a backup: `judge` asserts it.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from steward_api import names

from .cluster import wait_for
from .control_plane import Refused
from .control_plane_fixtures import Namespace
from .operator import Proxy

Json = dict[str, Any]
KINDS = ("home", "workspace", "cache")
#: Seconds until the requests of a schedule have ended.
PATIENCE = 150


@dataclass
class Played:
    """One schedule: what was asked for and done."""

    what: str
    user: str
    done: list[str] = field(default_factory=list)
    requests: dict[str, Json] = field(default_factory=dict)
    #: Kinds of claims that were deleted with kubectl.
    by_hand: set[str] = field(default_factory=set)
    has_server: bool = False
    #: Whether somebody has stopped the server, or asked for it.
    is_stopped: bool = False


class Player:
    """A user, the administrators and the machines around her."""

    def __init__(self, ns: Namespace, what: str, user: str, chance: random.Random) -> None:
        self.ns = ns
        self.chance = chance
        self.played = Played(what, user)

    def come(self) -> None:
        """With claims, used or not, and perhaps a server; what an earlier schedule has left is taken as it is."""
        user = self.played.user
        for kind in KINDS:
            claim = self.ns.claim(user, kind)
            if claim and "deletionTimestamp" in claim["metadata"]:
                # Deleted by hand in an earlier schedule, and held by a server since.
                self.leave()
                wait_for("the claim is gone", lambda k=kind: self.ns.claim(user, k) is None, 30, every=0.1)
                claim = None
            if claim is None:
                self.ns.make_claim(user, kind)
            if self.chance.random() < 0.5:
                self.ns.bind(user, kind)
        if self.chance.random() < 0.6 and self.ns.pod(user) is None:
            self.ns.start_server(user)
        self.played.has_server = self.ns.pod(user) is not None
        self.played.is_stopped = False

    def play(self) -> Played:
        self.come()
        for _ in range(self.chance.randint(2, 7)):
            act = self.chance.choice([self.reset, self.reset, self.restart, self.cancel, self.forget, self.start,
                                      self.stop, self.delete_claim])  # fmt: skip
            try:
                self.played.done.append(act.__name__)
                act()
            except Refused as refused:
                # People are refused things: a second pod of the same name, a locked claim, what is gone already.
                if refused.status not in (400, 403, 404, 409, 422):
                    raise
            pause = time.monotonic() + self.chance.choice([0.0, 0.0, 0.05, 0.2, 0.6])
            wait_for("the pause is over", lambda end=pause: time.monotonic() >= end, 10, every=0.02)
        return self.played

    def reset(self) -> None:
        volumes = self.chance.sample(KINDS, self.chance.randint(1, 2))
        spec: Json = {
            "volumes": volumes,
            "serverPolicy": self.chance.choice(["RequireStopped", "Stop", "StopAndStart"]),
            "backup": self.chance.choice(["Default", "Copy", "Snapshot", "None"]),
        }
        self.played.is_stopped |= spec["serverPolicy"] == "Stop"
        ready = [b for b in self.ns.backups(self.played.user) if names.BACKUP in b["metadata"]["annotations"]]
        if ready and self.chance.random() < 0.5:
            backup = self.chance.choice(ready)["metadata"]
            spec.update(volumes=[backup["labels"][names.VOLUME]], contents={"from": "Backup", "name": backup["name"]})
        self.keep(names.VOLUME_RESET, spec)

    def restart(self) -> None:
        self.keep(names.SERVER_RESTART, {"strategy": self.chance.choice(["Auto", "InPlace", "Recreate"])})

    def keep(self, kind: str, spec: Json) -> None:
        # A claim that was deleted by hand while a server holds it is waited for no longer than this.
        spec["startingDeadlineSeconds"] = 40
        self.played.requests[self.ns.ask(kind, self.played.user, **spec)] = {"kind": kind, **spec}

    def cancel(self) -> None:
        for name, request in list(self.played.requests.items())[-1:]:
            self.ns.api.raw("PATCH", self.ns.requests(request["kind"], name), {"spec": {"cancel": True}},
                            content_type="application/merge-patch+json")  # fmt: skip

    def forget(self) -> None:
        for name, request in list(self.played.requests.items())[-1:]:
            self.ns.api.raw("DELETE", self.ns.requests(request["kind"], name))

    def start(self) -> None:
        """As the spawner does: the pod first, then a live look at the locks, and the pod back where there is one."""
        self.ns.make_pod(self.played.user)
        if any(r.get("status", {}).get("lockedClaims") for r in of_user(self.ns, self.played.user)):
            self.stop()

    def stop(self) -> None:
        self.played.is_stopped = True
        self.ns.api.raw("DELETE", self.ns.core("pods", f"jupyter-{self.played.user}"))

    def leave(self) -> None:
        if self.ns.pod(self.played.user) is not None:
            self.stop()

    def delete_claim(self) -> None:
        kind = self.chance.choice(KINDS)
        claim = self.ns.claim(self.played.user, kind)
        if claim and not any(r["kind"] == names.VOLUME_RESET for r in self.played.requests.values()):
            return
        if claim:
            self.played.by_hand.add(kind)
            self.ns.api.raw("DELETE", self.ns.core("persistentvolumeclaims", claim["metadata"]["name"]),
                            {"preconditions": {"uid": claim["metadata"]["uid"]}})  # fmt: skip


def of_user(ns: Namespace, user: str) -> list[Json]:
    found = []
    for kind in names.PLURALS:
        items = ns.api.raw("GET", ns.requests(kind) + f"?fieldSelector=spec.user%3D{user}")["items"]
        found += [{"kind": kind, **item} for item in items]
    return found


def settled(ns: Namespace, played: Played) -> list[Json] | None:
    requests = of_user(ns, played.user)
    over = all(r.get("status", {}).get("completionTime") and not r["metadata"].get("finalizers") for r in requests)
    return requests or [{}] if over else None


def wait_settled(ns: Namespace, played: Played) -> list[Json]:
    """All requests of the user, when they have ended."""
    try:
        return wait_for("it settles", lambda: settled(ns, played), PATIENCE, every=0.2)
    except AssertionError as late:
        held = [r.get("status", {}) for r in of_user(ns, played.user)]
        short = [{k: s.get(k) for k in ("phase", "reason", "message", "step", "lockedClaims")} for s in held]
        pod = ns.pod(played.user)
        raise AssertionError(f"{played.what}: {played.done}: {json.dumps([short, pod])}") from late


def deletes_of_claims(proxies: list[Proxy]) -> dict[str, int]:
    """How often the claim of each UID has been deleted."""
    found: dict[str, int] = {}
    for proxy in proxies:
        for write in proxy.writes:
            if write.method == "DELETE" and write.happened and "persistentvolumeclaims" in write.path:
                uid = write.body["preconditions"]["uid"]
                found[uid] = found.get(uid, 0) + 1
    return found


def is_backup_due(spec: Json, volume: str) -> bool:
    """By the table of the tests: home is copied, and what an undo writes over."""
    asked = spec.get("backup", "Default")
    is_undo = spec.get("contents", {}).get("from") == "Backup"
    return asked in ("Copy", "Snapshot") or (asked == "Default" and (volume == "home" or is_undo))


def judge(
    ns: Namespace, played: Played, requests: list[Json], deletes: dict[str, int], *, keeps_backups: bool = True,
    ended: int = 0,
) -> None:  # fmt: skip
    """``ended`` is how many instances of the user's servers were ended while the schedule ran."""
    what = f"{played.what}: {played.done}"
    asked = sum(request["kind"] == names.SERVER_RESTART for request in played.requests.values())
    assert ended <= asked, f"{ended} instances were ended for {asked} restarts; {what}"
    resets = [r for r in requests if r and r["kind"] == names.VOLUME_RESET]
    for request in requests:
        assert not request or request["status"].get("lockedClaims", []) == [], what
    for kind in set(KINDS) - played.by_hand:
        claim = ns.claim(played.user, kind)
        assert claim is not None, f"{kind} is missing; {what}"
        assert "deletionTimestamp" not in claim["metadata"], what
        assert claim["metadata"]["labels"]["team"] == "blue", what
    if played.has_server and not played.is_stopped:
        assert ns.pod(played.user) is not None, f"nobody stopped the server; {what}"
    for request in resets:
        for row in request["status"].get("volumes", []):
            assert deletes.get(row.get("uid", ""), 0) <= 1, f"deleted twice; {what}"
            if row["outcome"] == "Reset" and is_backup_due(request["spec"], row["volume"]):
                assert row["backup"]["state"] in ("Ready", "NothingToBackUp"), what
            if keeps_backups and row["outcome"] == "Reset" and row.get("backup", {}).get("state") == "Ready":
                held = [b for b in ns.backups(played.user) if b["metadata"]["name"] == row["backup"]["name"]]
                assert held, f"the backup is gone; {what}"
                report = json.loads(held[0]["metadata"]["annotations"][names.BACKUP])
                assert report["checksum" if row["backup"]["provider"] == "Copy" else "bytes"], what

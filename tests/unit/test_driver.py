"""What the driver does about answers that never came, and about news that is old: with an API server of two methods."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from steward_api import names
from steward_operator.core.model import Request
from steward_operator.core.settings import Settings
from steward_operator.core.steps import StopServer, TryCreateClaim
from steward_operator.engine.driver import Driver, LookAgain
from steward_operator.engine.prober import Prober
from steward_operator.engine.store import Requests, Servers
from steward_operator.engine.teller import Teller
from steward_operator.kube.api import KubeError

from tests.support.builders import NOW, TABLE, restart, with_status, world

Json = dict[str, Any]
KEY = (names.SERVER_RESTART, "r")


class OneRequest:
    """A request on an API server that may carry a write out and lose the answer."""

    def __init__(self, request: Request) -> None:
        self.manifest: Json = copy.deepcopy(dict(request.manifest))
        self.manifest["metadata"]["resourceVersion"] = "1"
        self.loses_answers = False
        self.is_gone = False

    async def get_request(self, kind: str, name: str) -> Json:
        if self.is_gone:
            raise KubeError(404, "not found")
        return copy.deepcopy(self.manifest)

    async def get_pod(self, name: str) -> Json:
        raise KubeError(404, "not found")

    async def pages_of_pods(self, label_selector: str) -> Any:
        yield []

    async def pages_of_claims(self, label_selector: str) -> Any:
        yield []

    async def pages_of_snapshots(self) -> Any:
        yield []

    async def patch_request_status(self, kind: str, name: str, version: str, patch: Mapping[str, Any]) -> Json:
        meta = self.manifest["metadata"]
        if version != meta["resourceVersion"]:
            raise KubeError(409, "changed", "Conflict")
        meta["resourceVersion"] = str(int(version) + 1)
        self.manifest["status"] = {**self.manifest.get("status", {}), **patch}
        if self.loses_answers:
            self.loses_answers = False
            raise KubeError(0, "the connection was lost")
        return await self.get_request(kind, name)


STEP = TryCreateClaim({"metadata": {"name": "home-ann"}})


class NoHub:
    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    async def stop_server(self, user: str, server: str, pod_uid: str, container_id: str = "") -> None:
        self.calls.append((user, server, pod_uid, container_id))


def driver_of(server: OneRequest, hub: NoHub | None = None) -> tuple[Driver, Requests, Teller]:
    requests = Requests()
    requests.put(copy.deepcopy({**server.manifest, "kind": names.SERVER_RESTART}))
    teller = Teller(server, "hub", lambda: NOW)  # type: ignore[arg-type]
    servers = Servers(timedelta(seconds=600))
    driver = Driver(
        server, hub or NoHub(), requests, servers, TABLE, Settings(),  # type: ignore[arg-type]
        Prober(1.0, on_answer=lambda user: None), teller, lambda: NOW,
    )  # fmt: skip
    return driver, requests, teller


def audits(caplog: pytest.LogCaptureFixture) -> list[Json]:
    return [record.fields for record in caplog.records if getattr(record, "fields", {}).get("audit")]  # type: ignore[attr-defined]


def test_an_end_whose_answer_was_lost_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="steward")
    server = OneRequest(restart())
    server.loses_answers = True

    async def play() -> None:
        driver, requests, _ = driver_of(server)
        with pytest.raises(KubeError):
            await driver.process(KEY)
        assert audits(caplog) == []
        # The watch may have shown the end meanwhile.
        requests.put({**server.manifest, "kind": names.SERVER_RESTART})
        for _ in range(3):
            await driver.process(KEY)

    asyncio.run(play())
    (line,) = audits(caplog)
    assert (line["phase"], line["reason"]) == ("Failed", "UnknownUser")


def test_what_somebody_else_has_written_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="steward")
    server = OneRequest(restart())
    teller = Teller(server, "hub", lambda: NOW)  # type: ignore[arg-type]
    before = Request(server.manifest)
    teller.sends(before, {"phase": "Failed", "reason": "TimedOut", "message": "ours"})
    teller.sees(before)
    assert teller.waits_for(before.uid), "nothing has been written yet"
    other = with_status(before, phase="Failed", reason="TimedOut", message="theirs")
    teller.sees(Request({**other.manifest, "metadata": {**other.meta, "resourceVersion": "2"}}))
    assert not teller.waits_for(before.uid)
    assert audits(caplog) == []


@pytest.mark.parametrize(("status", "lines"), [({"phase": "Restarting"}, 1), ({"phase": "Pending"}, 0)])
def test_a_request_that_was_deleted_at_work_is_told_of_once(
    caplog: pytest.LogCaptureFixture, status: Json, lines: int
) -> None:
    caplog.set_level("INFO", logger="steward")
    server = OneRequest(with_status(restart(), **status))
    server.is_gone = True

    async def play() -> None:
        driver, requests, teller = driver_of(server)
        known = requests.get(*KEY)
        assert known is not None
        assert teller.is_news(known) is bool(lines)
        await driver.process(KEY)
        if lines:
            assert requests.get(*KEY) is None
            teller.is_gone(known)

    asyncio.run(play())
    assert [line.get("deleted") for line in audits(caplog)] == [True] * lines


def test_the_hub_is_asked_for_nothing_when_the_request_has_changed() -> None:
    server, hub = OneRequest(restart()), NoHub()
    seen = world(Request(copy.deepcopy({**server.manifest, "kind": names.SERVER_RESTART})))

    async def play() -> None:
        driver, _, _ = driver_of(server, hub)
        step = StopServer("ann", "", "pod-1", "c1")
        server.manifest["metadata"]["resourceVersion"] = "2"
        with pytest.raises(LookAgain):
            await driver._do(seen, step, {})
        assert hub.calls == []
        server.manifest["metadata"]["resourceVersion"] = "1"
        await driver._do(seen, step, {})
        assert hub.calls == [("ann", "", "pod-1", "c1")], "that pod, and that instance"

    asyncio.run(play())


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (None, True),
        (KubeError(409, "already exists", "AlreadyExists"), True),
        (KubeError(403, "exceeded quota: pvc", "Forbidden"), True),
        (KubeError(403, "denied by a policy", "Forbidden"), False),
        (KubeError(422, "spec.storageClassName: not found", "Invalid"), False),
    ],
)
def test_a_creation_that_is_tried_passes_where_only_its_name_or_room_is_missing(
    answer: KubeError | None, passes: bool
) -> None:
    class Trial(OneRequest):
        async def create_claim(self, template: Mapping[str, Any], *, dry_run: bool = False) -> Json:
            assert dry_run
            if answer:
                raise answer
            return {}

    async def play() -> None:
        driver, _, _ = driver_of(Trial(restart()))
        refused = await driver._try_create(restart(), STEP)
        assert (refused is None) == passes
        if refused is not None and answer is not None:
            assert refused.message == answer.message

    asyncio.run(play())


def test_a_deleted_request_does_without_an_answer_to_what_it_tries() -> None:
    """An admission webhook that is down would keep it from starting its server."""

    class Broken(OneRequest):
        async def create_claim(self, template: Mapping[str, Any], *, dry_run: bool = False) -> Json:
            raise KubeError(500, "failed calling webhook")

    deleted = Request(
        {**restart().manifest, "metadata": {**restart().meta, "deletionTimestamp": "2026-11-21T12:00:00Z"}}
    )

    async def play() -> None:
        driver, _, _ = driver_of(Broken(restart()))
        assert await driver._try_create(deleted, STEP) is None
        with pytest.raises(KubeError):
            await driver._try_create(restart(), STEP)

    asyncio.run(play())

"""Watches that fall silent, the bucket of writes, and what the operator checks before it begins."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from steward_api import names
from steward_api.crds import definitions
from steward_api.names import PLURALS
from steward_operator.adapters import health, startup
from steward_operator.core.settings import Settings, Snapshots
from steward_operator.engine import lease, watches
from steward_operator.engine.limiter import TokenBucket
from steward_operator.engine.sifter import Sifter
from steward_operator.hubapi.client import HubError
from steward_operator.kube.api import KubeError
from steward_operator.main import until_told_to_stop

from tests.support.control_plane import free_port

Json = dict[str, Any]


def thing(uid: str, version: int) -> Json:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_watch_that_has_shown_everything_is_fresh_and_one_that_has_not_dies() -> None:
    clock = Clock()
    seen = watches.Watches(clock)
    seen.deliver("pods", thing("a", 5))
    clock.time = 50
    assert seen.compare("pods", [thing("a", 5)])
    clock.time = 60
    assert seen.age("pods") == 10
    assert not seen.compare("pods", [thing("a", 6)])
    clock.time += watches.DEAD_AFTER
    assert seen.dead() == ""
    clock.time += 1
    assert seen.dead() == "pods"
    seen.deliver("pods", thing("a", 6))
    assert seen.dead() == ""


def test_what_went_after_the_list_was_taken_is_not_missing() -> None:
    seen = watches.Watches(Clock())
    seen.deliver("pods", thing("a", 5))
    listed = [thing("a", 5)]
    seen.forget("pods", "a")
    assert seen.compare("pods", listed)
    assert not seen.compare("pods", [thing("b", 1)])


def test_what_a_list_does_not_hold_any_more_is_forgotten() -> None:
    seen = watches.Watches(Clock())
    assert seen.known("pods") == set()
    for name in ("a", "b"):
        seen.deliver("pods", thing(name, 5))
    before = seen.known("pods")
    seen.deliver("pods", thing("c", 6))
    seen.drop("pods", before - {"b"})
    assert seen.known("pods") == {"b", "c"}


def test_the_bucket_lets_a_burst_through_and_then_one_at_a_time() -> None:
    async def spend() -> tuple[float, float]:
        bucket = TokenBucket(rate=100, burst=10)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(10):
            await bucket.take()
        burst = loop.time() - begun
        await asyncio.gather(*(bucket.take() for _ in range(10)))
        return burst, loop.time() - begun

    burst, rest = asyncio.run(spend())
    assert burst < rest
    assert rest >= 0.09


class FakeKube:
    def __init__(self, schemas: Json, refused: str = "") -> None:
        self.schemas, self.refused = schemas, refused
        self.asked: set[tuple[str, ...]] = set()

    async def served_schemas(self) -> Json:
        return self.schemas

    async def may(self, verb: str, group: str, resource: str, subresource: str = "", name: str = "") -> bool:
        self.asked.add((verb, group, resource, subresource, name))
        return resource != self.refused


def served() -> Json:
    return {
        f"io.hubsteward.v1alpha1.{kind}": copy.deepcopy(d["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        for kind, d in definitions().items()
    }


def checked(kube: FakeKube, **settings: Any) -> str:
    try:
        asyncio.run(startup.check(kube, Settings(**settings)))  # type: ignore[arg-type]
    except startup.StartUpError as error:
        return str(error)
    return ""


def test_start_up_passes_where_everything_is_in_place() -> None:
    kube = FakeKube(served())
    assert checked(kube) == ""
    assert {
        ("patch", "", "pods", "resize", ""),
        ("update", "coordination.k8s.io", "leases", "", names.LEASE),
    } < kube.asked
    assert len(kube.asked) == sum(map(len, startup.RIGHTS.values()))


def test_start_up_names_what_is_missing() -> None:
    assert "VolumeReset is not installed" in checked(FakeKube({}))
    old = served()
    spec = old["io.hubsteward.v1alpha1.VolumeReset"]["properties"]["spec"]["properties"]
    spec["backup"]["enum"].remove("Copy")
    assert "older than this operator: spec.backup does not know Copy" in checked(FakeKube(old))
    older = served()
    del older["io.hubsteward.v1alpha1.ServerRestart"]["properties"]["status"]["properties"]["lastWords"]
    assert "there is no status.lastWords" in checked(FakeKube(older))
    assert "may not get jobs" in checked(FakeKube(served(), refused="jobs"))


def test_the_rights_for_snapshots_are_asked_for_where_they_are_on() -> None:
    without = FakeKube(served(), refused="volumesnapshots")
    assert checked(without) == ""
    assert "may not list volumesnapshots" in checked(without, snapshots=Snapshots(enabled=True))


def test_livez_fails_when_a_watch_is_dead_or_the_loop_late() -> None:
    clock, port = Clock(), free_port()

    async def ask() -> list[tuple[int, str]]:
        seen, lag, found = watches.Watches(clock), health.Lag(), []
        served = await health.serve(port, seen, lag, lambda: "")

        async def note() -> None:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/livez") as answer:
                found.append((answer.status, await answer.text()))

        await note()
        lag.seconds = 11
        await note()
        lag.seconds = 9
        seen.compare("pods", [thing("a", 6)])
        clock.time = watches.DEAD_AFTER + 1
        await note()
        seen.deliver("pods", thing("a", 6))
        await note()
        await served.cleanup()
        return found

    assert asyncio.run(ask()) == [
        (200, "ok\n"),
        (503, "the event loop was 11 s late\n"),
        (503, "the watch on pods does not deliver\n"),
        (200, "ok\n"),
    ]


class RefusingHub:
    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)

    async def who_am_i(self) -> str:
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status != 200:
            raise HubError(status, "no")
        return "hubsteward-operator"


def test_a_hub_that_is_away_is_waited_for_and_one_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "TOKEN_AGAIN", 0.001)
    monkeypatch.setattr(startup, "TOKEN_PATIENCE", 0.01)
    asyncio.run(startup.check_hub(RefusingHub(0, 503, 403, 200)))  # type: ignore[arg-type]
    with pytest.raises(startup.StartUpError, match="refuses the operator's token"):
        asyncio.run(startup.check_hub(RefusingHub(403)))  # type: ignore[arg-type]


def test_every_kind_has_a_schema_to_compare_with() -> None:
    assert set(definitions()) == set(PLURALS)


def test_one_pass_serves_everybody_who_asked_before_it_began() -> None:
    begun: list[int] = []

    async def play() -> list[list[Any]]:
        going = asyncio.Event()

        async def pages() -> AsyncIterator[list[Any]]:
            number = len(begun)
            begun.append(number)
            await going.wait()
            yield [{"n": number, "of": "ann"}, {"n": number, "of": "bob"}]
            yield [{"n": number, "of": "ann"}]

        sifter = Sifter(pages)
        first = asyncio.create_task(sifter.sift(lambda one: one["of"] == "ann"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        later = [asyncio.create_task(sifter.sift(lambda one, of=of: one["of"] == of)) for of in ("ann", "bob", "eve")]
        going.set()
        return [await first, *[await task for task in later]]

    ann, *rest = asyncio.run(play())
    assert ann == [{"n": 0, "of": "ann"}] * 2
    assert rest == [[{"n": 1, "of": "ann"}] * 2, [{"n": 1, "of": "bob"}], []], "of a pass that began after the question"
    assert begun == [0, 1]


def test_a_list_that_fails_is_told_to_those_who_asked_and_the_next_begins_anew() -> None:
    answers = [KubeError(503, "busy"), None]

    async def pages() -> AsyncIterator[list[Any]]:
        if problem := answers.pop(0):
            raise problem
        yield [{}]

    async def play() -> list[Any]:
        sifter = Sifter(pages)
        both = await asyncio.gather(*(sifter.sift(bool) for _ in range(2)), return_exceptions=True)
        given_up = asyncio.create_task(sifter.sift(bool))
        given_up.cancel()
        return [*both, await sifter.sift(lambda _: True)]

    one, two, after = asyncio.run(play())
    assert (one.status, two.status, after) == (503, 503, [{}])


class LeaseServer:
    """A Lease with a version; ``taken_back`` renewals arrive while it is being given up."""

    def __init__(self, taken_back: int = 0) -> None:
        self.lease: Json | None = None
        self.taken_back = taken_back
        self.holders: list[str] = []

    async def get_lease(self, name: str) -> Json:
        await asyncio.sleep(0)
        if self.lease is None:
            raise KubeError(404, "no lease")
        return copy.deepcopy(self.lease)

    async def create_lease(self, lease: Json) -> None:
        self._take({**lease, "metadata": {**lease["metadata"], "resourceVersion": "1"}})

    async def replace_lease(self, name: str, lease: Json) -> None:
        await asyncio.sleep(0)
        assert self.lease is not None
        present = self.lease["metadata"]["resourceVersion"]
        if self.taken_back and not lease["spec"]["holderIdentity"]:
            self.taken_back -= 1
            self.lease["metadata"]["resourceVersion"] = str(int(present) + 1)
            raise KubeError(409, "changed", "Conflict")
        if lease["metadata"]["resourceVersion"] != present:
            raise KubeError(409, "changed", "Conflict")
        self._take({**lease, "metadata": {**lease["metadata"], "resourceVersion": str(int(present) + 1)}})

    def _take(self, lease: Json) -> None:
        self.lease = lease
        self.holders.append(lease["spec"]["holderIdentity"])


@pytest.mark.parametrize("on_their_way", [0, 2])
def test_who_is_told_to_stop_gives_the_lease_up_and_does_not_take_it_again(
    monkeypatch: pytest.MonkeyPatch, on_their_way: int
) -> None:
    """With renewals that never rest: one may be under way, and would be the next leader's 15 seconds."""
    monkeypatch.setattr(lease, "RENEW_EVERY", 0)
    server = LeaseServer(on_their_way)

    async def play() -> None:
        held = asyncio.Event()
        ours = lease.Lease(server, "hub", "me", on_held=held.set)  # type: ignore[arg-type]

        async def first() -> None: ...

        async def part_that_ends() -> None:
            await held.wait()

        ready = asyncio.Event()
        ready.set()
        with pytest.raises(RuntimeError, match="ended by itself"):
            await until_told_to_stop(ready, ours, first(), {"part": part_that_ends(), "lease": ours.run()})
        assert not ours.is_held

    asyncio.run(play())
    assert server.holders[-1] == ""
    assert server.holders.count("") == 1

"""A user's server on paper: its pod, the kubelet that runs it, the hub that starts it, and two operators that restart it.

What the kubelet does here is what was measured of a real one: a resize replaces the instance, the fifth end within ten
minutes meets the crash back-off, and an instance that ended with exit code 0 is then never started again. The rules
that may never break are asserted at the moment they could.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from steward_api.phases import ENDS, Phase
from steward_operator.core.model import Pod, Refusal, Request, World
from steward_operator.core.plan_restart import plan_restart
from steward_operator.core.quantities import quantity
from steward_operator.core.server import MOST_STARTS
from steward_operator.core.settings import Settings
from steward_operator.core.steps import Done, Plan, ResizePod, StartServer, StopServer, Wait, WriteStatus

from .builders import NOW, TABLE, claim, pod, restart, stamp
from .paper import Conflict, Wire

Json = dict[str, Any]
SETTINGS = Settings(start_failure_timeout=30, stop_timeout=60, answer_timeout=60, min_restart_interval=5)
#: Ends of the container, none ten minutes after the one before, from which on the kubelet may hold it back.
BACK_OFF_AFTER = 4
ORDER = [Phase.PENDING, Phase.RESTARTING, Phase.SUCCEEDED]


@dataclass
class Restarter:
    """One operator process, at work on one of the requests.

    Like the driver it keeps what it saw of the pods, and the time it saw them at, while it writes nothing but statuses, and
    looks again after anything else.
    """

    server: PaperServer
    name: str = ""
    request: Request | None = None
    rest: Json = field(default_factory=dict)
    seen: datetime = NOW
    answers: dict[str, Refusal | None] = field(default_factory=dict)

    def read_request(self, name: str) -> None:
        if name != self.name:
            self.crash()
        self.name = name
        self.request = copy.deepcopy(self.server.requests.get(name))

    def read_rest(self) -> None:
        self.rest = self.server.read_rest(self.name)
        self.seen = self.server.now

    def plan(self) -> Plan:
        if self.request is None or not self.rest:
            return Done()
        return plan_restart(
            World(
                now=self.seen, request=self.request, table=TABLE, settings=SETTINGS,
                answers=dict(self.answers), **self.rest,
            )
        )  # fmt: skip

    def send(self) -> None:
        step = self.plan()
        if isinstance(step, Wait | Done) or self.request is None:
            self.answers.clear()
            return
        if any(answer and answer.is_quota for answer in self.answers.values()) and self.server.runs():
            gives_up = isinstance(step, WriteStatus) and step.status.get("mechanism") == "Recreate"
            assert not gives_up, "where a resize finds no room, a new pod might not be let in"
        self.server.arrive(step, self.request, self.answers)
        if not isinstance(step, WriteStatus):
            self.rest = {}
        if isinstance(step, ResizePod) and self.answers.get(step.key, step) is None:
            # Taken: the kubelet's answer is waited for, and the next look is one of a new pass.
            self.answers.clear()

    def send_late(self) -> None:
        """The write leaves, and its sender never learns what became of it. A start is refused where a server runs."""
        step = self.plan()
        if isinstance(step, ResizePod | WriteStatus | StopServer) and self.request is not None:
            self.server.on_their_way.append((step, self.request))

    def crash(self) -> None:
        self.request, self.rest = None, {}
        self.answers.clear()

    def turn(self, name: str) -> Plan:
        self.read_request(name)
        self.read_rest()
        step = self.plan()
        self.send()
        return step


class PaperServer(Wire):
    """Ann's server and some ServerRestarts of it."""

    def __init__(self, requests: list[Json], *, gpu: bool = False, guaranteed: bool = False) -> None:
        super().__init__()
        self._versions = itertools.count(100)
        self._numbers = itertools.count(1)
        self.now: datetime = NOW
        self.gpu, self.guaranteed = gpu, guaranteed
        self.requests: dict[str, Request] = {}
        #: Instances that each request has ended while they ran.
        self.killed: dict[str, list[str]] = {}
        for spec in requests:
            self.ask(spec)
        self.pod: Json | None = None
        self.answering: set[str] = set()
        self.ends: list[datetime] = []
        self.resized_by = self.taken_from = ""
        self.node = "willing"
        #: A resize that the kubelet has taken up: the container gets it at the kubelet's next round.
        self.under_way: Json | None = None
        #: Whether the lab ends with an exit code of its own when the kubelet ends it, and whether the hub forgets the next start.
        self.dies_hard = self.hub_forgets = False
        self.forgotten = 0
        self.refuses_down = self.refuses_all = self.is_full = self.hub_refuses = False
        #: Whether the user, or the lab itself, has done what explains a server that is gone.
        self.gone_for_a_reason = False
        self.start_pod(NOW - timedelta(hours=1))
        self.answer()

    # -- what an operator reads ------------------------------------------------------------------------------------

    def read_rest(self, name: str) -> Json:
        pods = (Pod(copy.deepcopy(self.pod)),) if self.pod else ()
        recent = sum(self.now - end <= timedelta(seconds=SETTINGS.restart_window) for end in self.ends)
        return {
            "pods": pods,
            "claims": (claim("home"),),
            "others": tuple(copy.deepcopy(r) for other, r in self.requests.items() if other != name),
            "recent_restarts": {view.uid: recent for view in pods},
            "answering": frozenset(self.answering),
        }

    # -- what happens to writes ------------------------------------------------------------------------------------

    def _do(self, step: Any, seen: Request) -> Refusal | None:
        match step:
            case WriteStatus(status):
                self._write_status(status, seen)
            case ResizePod(_, uid, version, resources):
                return self._resize(uid, version, resources, seen)
            case StopServer(_, _, pod_uid, container_id):
                if self.hub_refuses:
                    return Refusal(503, "the hub is busy")
                if self.pod is not None and self._view().uid != pod_uid:
                    return Refusal(409, "another pod runs by now")
                if self.pod is not None and container_id not in ("", self._status()["containerID"]):
                    return Refusal(409, "another instance runs by now")
                self._stop_for(seen)
            case StartServer():
                self._is_new_of(seen)
                if self.hub_refuses:
                    return Refusal(503, "the hub is busy")
                if self.pod is not None:
                    return Refusal(400, "pending stop") if self._view().is_deleting else None
                if self.hub_forgets:
                    # It took the start and was restarted.
                    self.hub_forgets = False
                    self.forgotten += 1
                    return None
                self.start_pod(self.now)
            case _:
                raise AssertionError(f"no such step here: {step}")
        return None

    def _is_new_of(self, seen: Request) -> None:
        """The driver reads the request again before it asks the hub for anything."""
        if self.requests[seen.name].resource_version != seen.resource_version:
            raise Conflict

    def _write_status(self, status: Mapping[str, Any], seen: Request) -> None:
        live = self.requests[seen.name]
        if live.resource_version != seen.resource_version:
            raise Conflict
        before, after = live.phase, Phase(status["phase"])
        assert before not in ENDS, "a finished request writes nothing"
        if after in ORDER:
            assert ORDER.index(after) >= ORDER.index(before), "phases never go back"
        if status.get("mechanism") == "Recreate" and live.status.get("mechanism") != "Recreate":
            is_dead = self.pod is not None and "running" not in self._status()["state"]
            is_asked = live.spec["strategy"] == "Recreate" or (is_dead and self.killed[live.name])
            assert not self.gpu or is_asked, "a device is not given away unasked"
        if after is Phase.SUCCEEDED:
            self._judge_success(status)
        meta = {**live.meta, "resourceVersion": str(next(self._versions))}
        self.requests[live.name] = Request({**live.manifest, "metadata": meta, "status": dict(status)})

    def _judge_success(self, status: Mapping[str, Any]) -> None:
        assert status["newContainerID"] in self.answering, "the new instance has answered"
        if status["reason"] == "Restarted":
            assert status["newContainerID"] != status["containerID"], "the instance that was seen first is gone"

    def _resize(self, uid: str, version: str, resources: Mapping[str, Any], seen: Request) -> Refusal | None:
        if self.pod is None or self._view().uid != uid or self._view().resource_version != version:
            raise Conflict
        container = self.pod["spec"]["containers"][0]
        grown = self._growth(container["resources"], resources)
        if self.is_full and max(grown) > 0:
            return Refusal(403, "exceeded quota: all of it")
        if self.refuses_all or (self.refuses_down and min(grown) < 0):
            return Refusal(403, "minimum cpu usage per Container is 50m")
        merged = copy.deepcopy(container["resources"])
        for part, values in resources.items():
            merged.setdefault(part, {}).update(values)
        container["resources"] = merged
        self.resized_by = seen.name
        self._touch()
        return None

    @staticmethod
    def _growth(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[float]:
        return [
            quantity(value) - quantity(present[part][name])
            for part, values in wanted.items()
            for name, value in values.items()
        ]

    def _stop_for(self, seen: Request) -> None:
        if self.pod is None or self._view().is_deleting:
            return
        container = self._view().notebook
        if container is not None and container.state == "running":
            self._end(seen.name, container.id)
        self.pod["metadata"]["deletionTimestamp"] = stamp(self.now)
        self._touch()

    def _end(self, name: str, container: str) -> None:
        """An instance that runs is ended on behalf of a request."""
        self.killed[name].append(container)
        assert len(self.killed[name]) == 1, f"{name} ended two running instances: {self.killed[name]}"

    # -- the kubelet -----------------------------------------------------------------------------------------------

    def start_pod(self, moment: datetime) -> None:
        number = next(self._numbers)
        both = {"cpu": "1", "memory": "1Gi"}
        sizes: Json = {"requests": both, "limits": both, "qos": "Guaranteed"} if self.guaranteed else {}
        made = pod(uid=f"pod-{number}", container=f"c-{number}", started=moment, probe=True, ready=False, **sizes)
        self.pod = copy.deepcopy(dict(made.manifest))
        resources = self.pod["spec"]["containers"][0]["resources"]
        if self.gpu:
            resources.setdefault("limits", {})["nvidia.com/gpu"] = "1"
        self._status()["resources"] = copy.deepcopy(resources)
        self.under_way = None
        self.ends.clear()
        self._touch()

    def kubelet(self) -> None:
        """One round: what the pod asks for is carried out, refused or put off."""
        if self.pod is None or self._view().is_deleting:
            return
        asked, status = self.pod["spec"]["containers"][0]["resources"], self._status()
        state = next(iter(status["state"]))
        if self.under_way is None and asked != status["resources"]:
            if self.node == "slow" and state == "running":
                self.under_way = copy.deepcopy(asked)
                self.taken_from = self.resized_by
                self.pod["status"]["conditions"] = [{"type": "PodResizeInProgress", "status": "True"}]
                self._touch()
                return
            if self.node in ("Infeasible", "Deferred"):
                condition = {"type": "PodResizePending", "status": "True", "reason": self.node}
                self.pod["status"]["conditions"] = [condition]
                self._touch()
                if state == "terminated" and status["state"]["terminated"]["exitCode"] != 0:
                    # What it is to be resized to does not keep a container that died from being started again.
                    self._again(patient=True)
                return
            self.under_way, self.taken_from = copy.deepcopy(asked), self.resized_by
        if self.under_way is not None:
            status["resources"], self.under_way = self.under_way, None
            if state == "running":
                assert not self.requests[self.taken_from].is_finished, "a resize was left behind"
                self._end(self.taken_from, status["containerID"])
                self._ended(137 if self.dies_hard else 0)
                self._again()
                if not self.runs() and not self.dies_hard:
                    # All of the pod's containers have ended well, which OnFailure takes for the end of the pod.
                    self.pod["status"]["phase"] = "Succeeded"
        elif state == "terminated" and status["state"]["terminated"]["exitCode"] != 0:
            # Ended by itself: with an exit code of its own it is started again when the back-off is over.
            self._again(patient=True)
        self.pod["status"]["conditions"] = []
        self._touch()

    def _ended(self, code: int) -> None:
        status = self._status()
        self.ends.append(self.now)
        status["state"] = {"terminated": {"exitCode": code, "finishedAt": stamp(self.now), "message": "last words"}}
        status["ready"] = status["started"] = False

    def _again(self, *, patient: bool = False) -> None:
        if self._is_held_back() and not (patient and self.now - self.ends[-1] > timedelta(seconds=300)):
            return
        status = self._status()
        status.update(
            lastState=status["state"], state={"running": {"startedAt": stamp(self.now)}},
            restartCount=status["restartCount"] + 1, containerID=f"c-{next(self._numbers)}",
        )  # fmt: skip

    def _is_held_back(self) -> bool:
        """Doubles from end to end until the container has run for ten minutes."""
        chain = [self.ends[-1]]
        for end in reversed(self.ends[:-1]):
            if chain[-1] - end > timedelta(minutes=10):
                break
            chain.append(end)
        if len(chain) < BACK_OFF_AFTER:
            return False
        return chain[0] - chain[1] < timedelta(seconds=min(300, 10 * 2 ** (len(chain) - BACK_OFF_AFTER)))

    def answer(self) -> None:
        """The instance that runs has come up."""
        if self.pod is None or "running" not in self._status()["state"]:
            return
        self._status().update(ready=True, started=True)
        self.answering.add(self._status()["containerID"])
        self._touch()

    def crash(self) -> None:
        """The lab ends by itself, or the kernel ends it."""
        if self.pod is not None and "running" in self._status()["state"]:
            self._ended(137)
            self._touch()

    def pods_go(self) -> None:
        if self.pod is not None and self._view().is_deleting:
            self.pod = None

    # -- people ----------------------------------------------------------------------------------------------------

    def ask(self, spec: Json) -> str:
        name = f"r{len(self.requests) + 1}"
        self.requests[name] = restart(name=name, created=self.now, **spec)
        self.killed[name] = []
        return name

    def user_stops(self) -> None:
        if self.pod is not None:
            self.gone_for_a_reason = True
            self.pod["metadata"].setdefault("deletionTimestamp", stamp(self.now))
            self._touch()

    def user_starts(self) -> None:
        if self.pod is None:
            self.gone_for_a_reason = False
            self.start_pod(self.now)

    def cancel(self, name: str) -> None:
        live = self.requests[name]
        meta = {**live.meta, "resourceVersion": str(next(self._versions))}
        self.requests[name] = Request({**live.manifest, "metadata": meta, "spec": {**live.spec, "cancel": True}})

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- the end ---------------------------------------------------------------------------------------------------

    def settle(self, restarter: Restarter, turns: int = 400) -> None:
        """From now on nothing goes wrong any more: every request comes to an end by itself."""
        self.node = "willing"
        self.refuses_down = self.refuses_all = self.is_full = self.hub_refuses = self.hub_forgets = False
        restarter.crash()
        for _ in range(turns):
            steps = [restarter.turn(name) for name in self.requests]
            if all(isinstance(step, Done) for step in steps):
                break
            if all(isinstance(step, Wait | Done) for step in steps):
                self.kubelet()
                self.answer()
                self.pods_go()
                self.later(2)
        for request in self.requests.values():
            assert request.is_finished, request.status

    def judge(self) -> None:
        """No server is gone or dead that nobody stopped, and no resize lies about that would end an instance some day."""
        if self.pod is None:
            assert self.gone_for_a_reason or self.forgotten >= MOST_STARTS, "the server is gone"
            return
        before = {name: list(ended) for name, ended in self.killed.items()}
        self.later(3600)
        for _ in range(4):
            self.kubelet()
        assert self.killed == before, "a resize was left behind"
        assert self._view().is_deleting or self.runs(), "the container is dead for good"

    def runs(self) -> bool:
        return self.pod is not None and "running" in self._status()["state"]

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _view(self) -> Pod:
        assert self.pod is not None
        return Pod(self.pod)

    def _status(self) -> Json:
        assert self.pod is not None
        status: Json = self.pod["status"]["containerStatuses"][0]
        return status

    def _touch(self) -> None:
        assert self.pod is not None
        self.pod["metadata"]["resourceVersion"] = str(next(self._versions))

"""Stands in for kubelet and scheduler in the api tier: runs pods on paper, restarts containers on a resize, and says of
a copy that it has been made.

The real ones run in the e2e tier; here they would make every crash boundary take seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from steward_api import names

from .control_plane import ControlPlane, Refused

Json = dict[str, Any]
TICK = 0.02


def _now(ago: float = 0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


class FakeKubelet(threading.Thread):
    def __init__(self, control_plane: ControlPlane, namespace: str, tick: float = TICK, swap: float = 0) -> None:
        """``swap`` is how many seconds an instance takes to be replaced."""
        super().__init__(daemon=True)
        self._tick, self._swap = tick, swap
        self._resized_at: dict[str, float] = {}
        self._api = control_plane
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._numbers = itertools.count(1)
        self._stop_asked = threading.Event()
        self._events: queue.Queue[tuple[str, Json]] = queue.Queue()
        #: Instances that were ended by a resize, by the UID of their pod.
        self.restarts: dict[str, int] = {}
        #: The same by user, whatever became of the pods.
        self.restarts_of: Counter[str] = Counter()
        self.problems: list[str] = []
        #: Source claim -> exit code and report of its copy; everything else is copied.
        self.copies: dict[str, tuple[int, Json]] = {}
        #: Source claims whose copy does not come to an end.
        self.stuck: set[str] = set()
        #: What was written, by the UID of a claim or the name of a snapshot.
        self.written: dict[str, str] = {}

    def run(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        # By name; a pod that wants nothing more is left out until it changes.
        waiting: dict[str, Json] = {}
        while not self._stop_asked.is_set():
            with suppress(queue.Empty):
                kind, pod = self._events.get(timeout=self._tick)
                while True:
                    waiting.pop(pod["metadata"]["name"], None)
                    if kind != "DELETED":
                        waiting[pod["metadata"]["name"]] = pod
                    kind, pod = self._events.get_nowait()
            for name, pod in list(waiting.items()):
                if self._is_tended(pod):
                    del waiting[name]

    def _read(self) -> None:
        while not self._stop_asked.is_set():
            try:
                for event in self._api.watch(self._pods):
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        self._events.put((event["type"], event["object"]))
            except (OSError, ValueError) as error:
                # At the end of the control plane the watch ends, too.
                if not self._stop_asked.wait(1):
                    self.problems.append(repr(error))

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(10)

    def _is_tended(self, pod: Json) -> bool:
        """Whether nothing is left to do for the pod as it was seen."""
        try:
            return self._tend(pod)
        except Refused as refused:
            # Somebody else changed the pod meanwhile: that will be seen, too.
            if refused.status not in (404, 409):
                self.problems.append(str(refused))
        except OSError as error:
            self.problems.append(repr(error))
        return True

    def _tend(self, pod: Json) -> bool:
        path = f"{self._pods}/{pod['metadata']['name']}"
        if "deletionTimestamp" in pod["metadata"]:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
            self._api.raw("DELETE", path, options)
        elif not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": "paper"}
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": pod["metadata"]["name"]},
                "target": target,
            }
            self._api.raw("POST", f"{path}/binding", binding)
        elif pod["metadata"].get("labels", {}).get(names.COMPONENT) == names.COPY_COMPONENT:
            return self._copy(path, pod)
        elif not pod["status"].get("containerStatuses"):
            # Old enough not to be spared as just started.
            self._report(path, pod, restarts=0, started=_now(3600))
        elif self._is_resized(pod):
            if not self._is_swapped(pod["metadata"]["uid"]):
                return False
            count = pod["status"]["containerStatuses"][0]["restartCount"] + 1
            self.restarts[pod["metadata"]["uid"]] = self.restarts.get(pod["metadata"]["uid"], 0) + 1
            self.restarts_of[pod["metadata"].get("annotations", {}).get(names.USERNAME, "")] += 1
            self._report(path, pod, restarts=count, started=_now())
        return True

    def _copy(self, path: str, pod: Json) -> bool:
        source = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        if source in self.stuck:
            return False
        if pod["status"]["phase"] != "Pending":
            return True
        code, report = self.copies.get(source) or self._copied(pod)
        ended = {"exitCode": code, "message": json.dumps(report), "finishedAt": _now(), "startedAt": _now()}
        status = {
            "name": "copy", "containerID": f"paper://{next(self._numbers)}", "image": "paper", "imageID": "paper",
            "restartCount": 0, "ready": False, "started": False, "state": {"terminated": ended},
        }  # fmt: skip
        body = {
            "metadata": {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]},
            "status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": [status]},
        }
        self._api.raw("PATCH", f"{path}/status", body, content_type="application/merge-patch+json")
        return True

    def _copied(self, pod: Json) -> tuple[int, Json]:
        """What the copier does with its volumes: it compares, writes and reports; given one volume it looks."""
        claims = [self._claim(volume["persistentVolumeClaim"]["claimName"]) for volume in pod["spec"]["volumes"]]
        content = self.content(claims[0])
        report = {"files": 3, "bytes": 1000, "checksum": checksum(content)}
        for argument in pod["spec"]["containers"][0]["args"]:
            if argument.startswith("--expect=") and argument != f"--expect={report['checksum']}":
                return 5, {"error": "the backup is not what was written into it"}
        for target in claims[1:]:
            self.written[target["metadata"]["uid"]] = content
        return 0, report

    def _claim(self, name: str) -> Json:
        return dict(self._api.raw("GET", f"{self._pods.removesuffix('/pods')}/persistentvolumeclaims/{name}"))

    def content(self, held: Json) -> str:
        """Of a claim or a snapshot: what was copied or taken into it, what its user has written; else nothing."""
        spec = held["spec"]
        for key in (held["metadata"]["uid"], held["metadata"]["name"], (spec.get("dataSource") or {}).get("name")):
            if key in self.written:
                return self.written[key]
        return f"files of {held['metadata']['uid']}" if held.get("status", {}).get("phase") == "Bound" else ""

    def take_snapshot(self, name: str, source: str) -> None:
        """A snapshot of this name holds from now on what the claim ``source`` holds."""
        self.written[name] = self.content(self._claim(source))

    def _is_swapped(self, uid: str) -> bool:
        if time.monotonic() - self._resized_at.setdefault(uid, time.monotonic()) < self._swap:
            return False
        del self._resized_at[uid]
        return True

    @staticmethod
    def _is_resized(pod: Json) -> bool:
        return pod["spec"]["containers"][0]["resources"] != pod["status"]["containerStatuses"][0].get("resources")

    def _report(self, path: str, pod: Json, restarts: int, started: str) -> None:
        container = pod["spec"]["containers"][0]
        status = {
            "name": container["name"], "containerID": f"paper://{next(self._numbers)}", "image": container["image"],
            "imageID": "paper", "restartCount": restarts, "ready": True, "started": True,
            "state": {"running": {"startedAt": started}}, "resources": container["resources"],
        }  # fmt: skip
        body = {
            "metadata": {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]},
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "podIPs": [{"ip": "127.0.0.1"}],
                "containerStatuses": [status],
            },
        }  # fmt: skip
        self._api.raw("PATCH", f"{path}/status", body, content_type="application/merge-patch+json")

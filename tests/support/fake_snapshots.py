"""Stands in for the snapshot controller and a CSI driver in the api and chaos tiers: every snapshot becomes ready to use.

The real chain is in ``tests/csi``; here it would make every crash boundary take seconds.
"""

from __future__ import annotations

import threading
from typing import Any

from .control_plane import ControlPlane, Refused
from .fake_kubelet import FakeKubelet

Json = dict[str, Any]


class FakeSnapshots(threading.Thread):
    def __init__(self, control_plane: ControlPlane, namespace: str, kubelet: FakeKubelet) -> None:
        super().__init__(daemon=True)
        self._api, self._kubelet = control_plane, kubelet
        self._path = f"/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}/volumesnapshots"
        self._stop_asked = threading.Event()
        self.problems: list[str] = []

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                for event in self._api.watch(self._path):
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._tend(event["object"])
            except (OSError, ValueError) as error:
                # At the end of the control plane the watch ends, too.
                if not self._stop_asked.wait(1):
                    self.problems.append(repr(error))

    def stop(self) -> None:
        self._stop_asked.set()

    def _tend(self, taken: Json) -> None:
        meta = taken["metadata"]
        if "deletionTimestamp" in meta or taken.get("status", {}).get("readyToUse"):
            return
        status = {"readyToUse": True, "restoreSize": "1Gi", "boundVolumeSnapshotContentName": f"content-{meta['uid']}"}
        path = f"{self._path}/{meta['name']}/status"
        try:
            self._kubelet.take_snapshot(meta["name"], taken["spec"]["source"]["persistentVolumeClaimName"])
            self._api.raw("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
        except Refused as refused:
            if refused.status != 404:
                self.problems.append(str(refused))

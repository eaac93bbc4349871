"""The operator's Lease: who leads, for which release, and the sign of life that the hub reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from steward_api.names import LEASE, RELEASE

from steward_operator.core.clock import parse_time
from steward_operator.kube.api import Json, KubeApi, KubeError
from steward_operator.obs import metrics
from steward_operator.obs.log import log

DURATION = 15
RENEW_EVERY = 3.0
#: A standby looks more often than the leader writes, so that a hand-over in good order takes no time.
LOOK_EVERY = 0.5
#: A last renewal may still be on its way when the Lease is given up.
RELEASES = 3


class ForeignRelease(Exception):
    """Another release's operator works in this namespace."""


class Lease:
    """Holds the Lease while `run` runs. `is_held` tells whether the driver may act."""

    def __init__(self, kube: KubeApi, release: str, identity: str, on_held: Callable[[], None]) -> None:
        self._kube = kube
        self._release = release
        self._identity = identity
        self._on_held = on_held
        self.is_held = False
        self._renewed_at = 0.0
        self._foreign_seen: tuple[str, float] = ("", 0.0)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                held = await self._take_or_renew()
            except KubeError as error:
                # Without the API server nothing can be acted on either; leadership ends when the Lease would.
                log(logging.WARNING, "lease not renewed", problem=str(error))
                held = self.is_held and loop.time() - self._renewed_at < DURATION - RENEW_EVERY
            else:
                if held:
                    self._renewed_at = loop.time()
            if held and not self.is_held:
                log(logging.INFO, "leading", identity=self._identity, release=self._release)
                self.is_held = True
                self._on_held()
            elif self.is_held and not held:
                log(logging.WARNING, "not leading any more", identity=self._identity)
            self.is_held = held
            metrics.leading.set(held)
            await asyncio.sleep(RENEW_EVERY if held else LOOK_EVERY)

    async def _take_or_renew(self) -> bool:
        now = datetime.now(UTC)
        try:
            lease = await self._kube.get_lease(LEASE)
        except KubeError as error:
            if not error.is_gone:
                raise
            await self._kube.create_lease(self._document(None, now))
            return True
        spec = lease.get("spec") or {}
        release = (lease["metadata"].get("annotations") or {}).get(RELEASE, self._release)
        mine = spec.get("holderIdentity") == self._identity
        if not mine and not self._is_expired(spec):
            if release != self._release:
                raise ForeignRelease(
                    f"The release '{release}' already runs in this namespace and holds the Lease {LEASE}; "
                    f"install '{self._release}' in a namespace of its own."
                )
            return False
        try:
            await self._kube.replace_lease(LEASE, self._document(lease, now))
        except KubeError as error:
            if error.is_conflict:
                return False
            raise
        return True

    def _is_expired(self, spec: Json) -> bool:
        """By our own clock: unchanged for its whole duration since we first saw this renewal."""
        if not spec.get("holderIdentity") or not parse_time(spec.get("renewTime")):
            return True
        now = asyncio.get_running_loop().time()
        if self._foreign_seen[0] != spec["renewTime"]:
            self._foreign_seen = (spec["renewTime"], now)
        return now - self._foreign_seen[1] > float(spec.get("leaseDurationSeconds") or DURATION)

    def _document(self, present: Json | None, now: datetime) -> Json:
        spec: dict[str, Any] = dict((present or {}).get("spec") or {})
        moment = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if present else 0)
        spec.update(holderIdentity=self._identity, leaseDurationSeconds=DURATION, renewTime=moment)
        metadata: dict[str, Any] = {"name": LEASE, "annotations": {RELEASE: self._release}}
        if present:
            metadata["resourceVersion"] = present["metadata"]["resourceVersion"]
        return {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec,
        }  # fmt: skip

    async def release(self) -> None:
        """Give the Lease up, so that the next operator need not wait it out. `run` does not run any more."""
        if not self.is_held:
            return
        self.is_held = False
        problem: KubeError | None = None
        for _ in range(RELEASES):
            try:
                lease = await self._kube.get_lease(LEASE)
                if lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
                    await self._kube.replace_lease(LEASE, lease)
                return
            except KubeError as error:
                problem = error
                if not error.is_conflict:
                    break
        log(logging.WARNING, "lease not given up", problem=str(problem))

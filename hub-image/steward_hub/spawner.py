"""What a server needs so that it can be looked after: a claim per volume, the resize policy, a quiet hub.

A mixin over whatever KubeSpawner subclass is configured. It claims as little as it can: `get_pod_manifest`,
`_make_create_pod_request`, `poll` and `delete_forever`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyterhub.spawner import SpawnException
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException
from kubespawner.objects import make_pvc
from steward_api import names
from steward_api.phases import Phase
from steward_api.requests import locked_claims
from steward_api.volumes import OnUserDelete, Volume
from traitlets import Bool, Dict, Integer, Unicode
from traitlets.config import Configurable

from .cluster import ClusterAway, ClusterRefused, Requests, delete_snapshot, snapshots_of

#: The kubelet's longest crash back-off, and a little.
LONGEST_BACK_OFF = timedelta(seconds=330)
DEFAULT_CPU_REQUEST = "50m"


class Refused(SpawnException):
    """A start that is refused, with a sentence for the user.

    JupyterHub's spawn-pending page shows only messages under this attribute's name (``utils.format_exception``).
    """

    def __init__(self, message: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.jupyterhub_message = message


class StewardMixin(Configurable):
    """Composed before a KubeSpawner class by `wiring.compose`."""

    steward_volumes: Mapping[str, Volume] = {}
    #: Whether backups may be VolumeSnapshots.
    steward_snapshots = False
    # KubeSpawner's own: whether the remembered name of the home claim is settled.
    _pvc_exists: bool

    startup_probe = Dict(
        {"periodSeconds": 1, "failureThreshold": 300, "timeoutSeconds": 3},
        config=True,
        help="""
        Timing of the startup probe on the server's API. A server counts as ready when it answers, not when its
        process exists. Set to an empty dict for an image that does not answer on ``{base_url}api``.
        """,
    )
    startup_probe_path = Unicode(
        "{base_url}api",
        config=True,
        help="Path that the startup probe asks for; ``{base_url}`` is the server's base URL with its slash.",
    )
    home_required = Bool(
        True,
        config=True,
        help="""
        Refuse to make an empty home where another home claim carries this user's annotation. Losing sight of a home
        after a change of names looks like losing it.
        """,
    )
    terminated_grace = Integer(
        int(LONGEST_BACK_OFF.total_seconds()),
        config=True,
        help="Seconds for which a crashed container that the kubelet is about to restart still counts as running.",
    )

    # -- the pod ---------------------------------------------------------------------------------------------------

    def claim_name(self, volume: Volume, slug_scheme: str | None = None) -> str:
        if volume.kind == names.HOME and slug_scheme is None:
            return str(self.pvc_name)
        return str(self._expand_user_properties(volume.name_template, slug_scheme))

    async def get_pod_manifest(self) -> Any:
        await self._find_home()
        pod = await super().get_pod_manifest()
        container = _notebook(pod)
        # The outermost mount first, so that the kubelet does not hide one volume under another.
        for volume in sorted(self.steward_volumes.values(), key=lambda v: v.mount_path):
            name = f"volume-{volume.kind}"
            source = client.V1PersistentVolumeClaimVolumeSource(claim_name=self.claim_name(volume))
            pod.spec.volumes = [
                *(pod.spec.volumes or []),
                client.V1Volume(name=name, persistent_volume_claim=source),
            ]
            mount = client.V1VolumeMount(name=name, mount_path=volume.mount_path)
            container.volume_mounts = [*(container.volume_mounts or []), mount]
        return pod

    async def _make_create_pod_request(self, pod: Any, request_timeout: float) -> Any:
        """Create the pod, then look for locks, then make missing claims: in this order, and the operator in the other.

        The operator writes its lock and then lists pods; whoever comes second sees the other.
        """
        await self._refuse_locked(self._claims_in(pod))
        self._prepare_for_restarts(pod)
        try:
            created = await super()._make_create_pod_request(pod, request_timeout)
        except ApiException as error:
            # The chart's policy on locked claims saw a lock that came after our own look.
            if error.status in (403, 422) and "is being reset" in str(error.body):
                await self._refuse_locked(self._claims_in(pod))
            raise
        if not created:
            return created
        try:
            await self._refuse_locked(self._claims_in(pod))
            await self._ensure_claims(pod)
        except BaseException:
            await self._take_back(pod)
            raise
        return created

    @staticmethod
    def _claims_in(pod: Any) -> set[str]:
        return {
            volume.persistent_volume_claim.claim_name
            for volume in pod.spec.volumes or []
            if volume.persistent_volume_claim
        }

    async def _take_back(self, pod: Any) -> None:
        try:
            await self.api.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)
        except ApiException as error:
            if error.status != 404:
                raise

    async def _refuse_locked(self, claims: set[str]) -> None:
        try:
            locks = locked_claims(await Requests(self.namespace).locks())
        except ClusterRefused as refused:
            if refused.status == 404:
                # Without the CRDs nothing of ours can lock a claim.
                self.log.warning("Volume locks are not known here: %s", refused.message)
                return
            raise Refused(
                "The hub may not see whether a volume is being reset, so it does not start the server. "
                "Tell an administrator: the hub's Role is not complete.",
                reason="locks-forbidden",
                log_message=refused.message,
                status_code=409,
            ) from refused
        except ClusterAway as away:
            raise Refused(
                "The cluster does not answer at the moment. Try again shortly.",
                reason="cluster-away",
                log_message=str(away),
                status_code=503,
            ) from away
        for claim in sorted(claims & locks.keys()):
            raise Refused(
                f"A volume of this server is being reset ({locks[claim]}). Wait until that is done, then start again.",
                reason="volume-reset",
                status_code=409,
            )

    def _prepare_for_restarts(self, pod: Any) -> None:
        """The last word on the manifest, after every hook: what an in-place restart needs later."""
        container = _notebook(pod)
        if pod.spec.termination_grace_period_seconds is None:
            # A server that hangs is ended in place as soon as at a stop, and not after Kubernetes' half a minute. With
            # none at all the pod would be gone from the API while its processes write to its volumes still.
            pod.spec.termination_grace_period_seconds = max(1, self.delete_grace_period)
        if container.termination_message_policy is None:
            container.termination_message_policy = "FallbackToLogsOnError"
        if self.startup_probe and container.startup_probe is None:
            container.startup_probe = self._probe(container)
        policy = (pod.spec.restart_policy or "OnFailure") if pod.spec else "OnFailure"
        if policy == "Never":
            return
        resources = container.resources or client.V1ResourceRequirements()
        requests, limits = dict(resources.requests or {}), dict(resources.limits or {})
        if "cpu" not in requests and "cpu" not in limits:
            # Without any request a resize would change the pod's quality of service, which is not allowed.
            requests["cpu"] = DEFAULT_CPU_REQUEST
            resources.requests = requests
        container.resources = resources
        if container.resize_policy is None:
            container.resize_policy = [
                client.V1ContainerResizePolicy(resource_name=name, restart_policy="RestartContainer")
                for name in ("cpu", "memory")
            ]
        original = {"requests": requests, "limits": limits}
        pod.metadata.annotations = {
            **(pod.metadata.annotations or {}),
            names.RESOURCES: json.dumps({part: values for part, values in original.items() if values}),
        }

    def _probe(self, container: Any) -> Any:
        base_url = self.server.base_url if self.server else "/"
        port = next((p.name for p in container.ports or [] if p.name), self.port)
        path = self.startup_probe_path.format(base_url=base_url)
        timing = copy.copy(dict(self.startup_probe))
        return {"httpGet": {"path": path, "port": port}, **timing}

    # -- claims ----------------------------------------------------------------------------------------------------

    async def _find_home(self) -> None:
        """Settle the home claim's name: the remembered one, else an existing one under either naming, else the new."""
        home = self.steward_volumes.get(names.HOME)
        if home is None or self._pvc_exists:
            return
        for scheme in ("safe", "escape"):
            name = self._expand_user_properties(home.name_template, scheme)
            claim = await self._read_claim(name)
            if claim is not None and self._is_mine(claim, home):
                self.pvc_name, self._pvc_exists = name, True
                return
        self.pvc_name = self._expand_user_properties(home.name_template)
        if not self.home_required:
            return
        others = [c.metadata.name for c in await self._my_claims() if _kind(c) == names.HOME]
        if others:
            raise Refused(
                f"You already have a home volume under another name ({', '.join(sorted(others))}). "
                "An administrator has to decide which one to use, so that no files seem lost.",
                reason="other-home",
                status_code=409,
            )

    async def _my_claims(self, component: str = names.STORAGE_COMPONENT) -> list[Any]:
        page = await self.api.list_namespaced_persistent_volume_claim(
            self.namespace, label_selector=f"{names.COMPONENT}={component}"
        )
        return [claim for claim in page.items if self._is_mine(claim)]

    def _is_mine(self, claim: Any, volume: Volume | None = None) -> bool:
        """Whether the claim is this server's own, or one that all of the user's servers share."""
        annotations = claim.metadata.annotations or {}
        if annotations.get(names.USERNAME) != self.user.name:
            return False
        server = annotations.get(names.SERVERNAME, "")
        return bool(server == (self.name or "") or (volume and not volume.is_per_server and not server))

    async def _read_claim(self, name: str) -> Any | None:
        try:
            return await self.api.read_namespaced_persistent_volume_claim(name, self.namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    async def _ensure_claims(self, pod: Any) -> None:
        mounted = self._claims_in(pod)
        for volume in self.steward_volumes.values():
            name = self.claim_name(volume)
            if name not in mounted:
                continue
            claim = await self._read_claim(name)
            if claim is None:
                await self._create_claim(volume, name)
                claim = await self._read_claim(name)
            owner = ((claim and claim.metadata.annotations) or {}).get(names.USERNAME, self.user.name)
            if owner != self.user.name:
                raise Refused(
                    f"Your volume '{volume.title}' would have the name of a volume that belongs to somebody else. "
                    "Tell an administrator.",
                    reason="foreign-volume",
                    log_message=f"claim {name} belongs to {owner}",
                    status_code=409,
                )
            if claim is None:
                continue
            if claim.metadata.deletion_timestamp:
                raise Refused(
                    f"Your volume '{volume.title}' is being removed from the cluster and is not gone yet. "
                    "Wait a moment, then start again; it will be new and empty.",
                    reason="volume-terminating",
                    status_code=409,
                )
            if volume.kind == names.HOME:
                self._pvc_exists = True

    async def _create_claim(self, volume: Volume, name: str) -> None:
        labels = self._build_common_labels({**self._expand_all(self.storage_extra_labels), **volume.labels})
        labels.update(
            {
                "app.kubernetes.io/component": self.component_label,
                names.COMPONENT: names.STORAGE_COMPONENT,
                names.VOLUME: volume.kind,
            }
        )
        annotations = self._build_common_annotations(self._expand_all(self.storage_extra_annotations))
        if not volume.is_per_server:
            # Shared by all of the user's servers, so it belongs to none of them.
            annotations.pop(names.SERVERNAME, None)
        manifest = make_pvc(
            name=name,
            storage_class=volume.storage_class,
            access_modes=list(volume.access_modes),
            selector={},
            storage=volume.capacity,
            labels=labels,
            annotations=annotations,
        )
        try:
            await self.api.create_namespaced_persistent_volume_claim(self.namespace, manifest)
        except ApiException as error:
            if error.status != 409:
                raise Refused(
                    f"Your volume '{volume.title}' could not be created: the cluster refused it. "
                    "Tell an administrator.",
                    reason="volume-create",
                    log_message=f"claim {name}: {error.body!r}",
                    status_code=409,
                ) from error

    async def delete_forever(self) -> None:
        """A removed user's claims, those the table says go with him, and their backups. Named servers take only their
        own."""
        kinds = {
            kind
            for kind, volume in self.steward_volumes.items()
            # What all of a user's servers share does not go with one of them.
            if volume.on_user_delete is OnUserDelete.DELETE and (volume.is_per_server or not self.name)
        }
        for claim in [*await self._my_claims(), *await self._my_claims(names.BACKUP_COMPONENT)]:
            if _kind(claim) in kinds:
                self.log.info("Deleting claim %s of removed server", claim.metadata.name)
                options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=claim.metadata.uid))
                try:
                    await self.api.delete_namespaced_persistent_volume_claim(
                        claim.metadata.name, self.namespace, body=options
                    )
                except ApiException as error:
                    if error.status not in (404, 409):
                        raise
        for snapshot in await snapshots_of(self.namespace, self.user.name) if self.steward_snapshots else ():
            meta = snapshot["metadata"]
            if meta["labels"].get(names.VOLUME) in kinds and meta["annotations"].get(names.SERVERNAME, "") == self.name:
                self.log.info("Deleting snapshot %s of removed server", meta["name"])
                await delete_snapshot(self.namespace, meta["name"], meta["uid"])

    # -- the hub's view --------------------------------------------------------------------------------------------

    def notebook_status(self) -> dict[str, Any] | None:
        """The notebook container's status as KubeSpawner's reflector last saw it."""
        if self.pod_reflector is None:
            return None
        pod = self.pod_reflector.pods.get(f"{self.namespace}/{self.pod_name}")
        for status in ((pod or {}).get("status") or {}).get("containerStatuses") or []:
            if status["name"] == names.NOTEBOOK_CONTAINER:
                return dict(status)
        return None

    async def poll(self) -> int | None:
        """Running, too, while a restart is on or the kubelet is about to restart a container that died.

        KubeSpawner deletes the pod of a container it finds terminated, which would turn a crash into a loss.
        """
        await self._start_watching_pods()
        if await self._comes_back():
            return None
        return await super().poll()  # type: ignore[no-any-return]

    async def _comes_back(self) -> bool:
        pod = self.pod_reflector.pods.get(f"{self.namespace}/{self.pod_name}")
        status = self.notebook_status()
        ended = ((status or {}).get("state") or {}).get("terminated")
        if pod is None or not ended or "deletionTimestamp" in pod["metadata"]:
            return False
        # Of a pod that is over, too: the node may have taken the restart for its end, and the operator starts it anew.
        if await self._restart_is_on(pod["metadata"]["uid"]):
            return True
        if pod["status"]["phase"] != "Running":
            return False
        policy = pod["spec"].get("restartPolicy", "Always")
        restarts = policy == "Always" or (policy == "OnFailure" and ended.get("exitCode") != 0)
        finished = ended.get("finishedAt")
        if not restarts or not finished:
            return False
        age = datetime.now(UTC) - datetime.fromisoformat(finished)
        return age < timedelta(seconds=self.terminated_grace)

    async def _restart_is_on(self, pod_uid: str) -> bool:
        try:
            requests = await Requests(self.namespace).of_user(self.user.name, (names.SERVER_RESTART,))
        except (ClusterAway, ClusterRefused) as problem:
            self.log.warning("Restarts cannot be read, taking the server for running: %s", problem)
            return isinstance(problem, ClusterAway)
        return any(
            (request.get("status") or {}).get("podUID") == pod_uid
            and request["status"].get("phase") == Phase.RESTARTING
            for request in requests
        )


def _notebook(pod: Any) -> Any:
    return next(c for c in pod.spec.containers if c.name == names.NOTEBOOK_CONTAINER)


def _kind(claim: Any) -> str:
    return str((claim.metadata.labels or {}).get(names.VOLUME, names.HOME))

"""kopf as an informer: its watches fill the stores and put keys into our queue. No kopf writes, no finalizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf
from steward_api import names

from steward_operator.core.model import Claim, Pod
from steward_operator.engine.driver import utc_now
from steward_operator.engine.store import Key, Requests, Servers
from steward_operator.engine.watches import Watches
from steward_operator.kube.client import UNFINISHED, connection


def registry(
    requests: Requests,
    servers: Servers,
    watches: Watches,
    add: Callable[[Key], None],
    forget_pod: Callable[[str], None],
    forget_request: Callable[[Key], None],
    wake: Callable[[str], None],
) -> kopf.OperatorRegistry:
    """``add`` puts a request into the queue, ``wake`` all unfinished ones of a user; ``forget_pod`` gets a UID."""

    def wake_maker(body: Any) -> None:
        """The request that a copy was made for, by its UID in the label."""
        uid = (body["metadata"].get("labels") or {}).get(names.REQUEST)
        for request in requests.all():
            if request.uid == uid and not request.is_finished:
                add((request.kind, request.name))

    found = kopf.OperatorRegistry()

    @kopf.on.login(registry=found)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection()

    for kind, plural in names.PLURALS.items():

        @kopf.on.event(names.GROUP, names.VERSION, plural, registry=found, id=f"request-{kind}")
        def on_request(event: Any, body: Any, kind: str = kind, **_: Any) -> None:
            if event["type"] == "DELETED":
                # Also what has come to its end: the stream holds only what has not.
                watches.forget(names.PLURALS[kind], body["metadata"]["uid"])
                forget_request((kind, body["metadata"]["name"]))
                wake(body.get("spec", {}).get("user", ""))
                return
            watches.deliver(names.PLURALS[kind], body)
            # Never older than what a write of ours has put there: versions of one object only grow.
            known = requests.get(kind, body["metadata"]["name"])
            if known and known.uid == body["metadata"]["uid"] and _version(known.manifest) >= _version(body):
                # Nor is a write of ours news: the pass that made it has gone on from there.
                return
            requests.put({**body, "kind": kind})
            add((kind, body["metadata"]["name"]))
            if known and (current := requests.get(kind, known.name)) and current.is_finished:
                wake(known.user)

    @kopf.on.event("", "v1", "pods", registry=found, id="server", labels={names.COMPONENT: names.SERVER_COMPONENT})
    def on_pod(event: Any, body: Any, **_: Any) -> None:
        pod = Pod(body)
        if event["type"] == "DELETED":
            watches.forget("pods", pod.uid)
            forget_pod(pod.uid)
        else:
            watches.deliver("pods", body)
            servers.put(pod, utc_now())
        wake(pod.user)

    @kopf.on.event(
        "", "v1", "persistentvolumeclaims", registry=found, id="claim",
        labels={names.COMPONENT: names.STORAGE_COMPONENT},
    )  # fmt: skip
    def on_claim(body: Any, **_: Any) -> None:
        wake(Claim(body).user)

    @kopf.on.event("batch", "v1", "jobs", registry=found, id="copy", labels={names.COMPONENT: names.COPY_COMPONENT})
    def on_copy(body: Any, **_: Any) -> None:
        wake_maker(body)

    @kopf.on.event("", "v1", "pods", registry=found, id="copy-pod", labels={names.COMPONENT: names.COPY_COMPONENT})
    def on_copy_pod(body: Any, **_: Any) -> None:
        wake_maker(body)

    return found


def _version(manifest: Any) -> int:
    """Comparable since Kubernetes 1.35 by contract (KEP-5504), by etcd's revisions before."""
    return int(manifest["metadata"]["resourceVersion"])


def settings() -> kopf.OperatorSettings:
    found = kopf.OperatorSettings()
    found.scanning.disabled = True
    found.peering.standalone = True
    found.posting.enabled = False
    # What has ended, and what is nobody's server, never reaches this process: most of its memory and time.
    for plural in names.PLURALS.values():
        found.watching.field_selectors[names.GROUP, plural] = UNFINISHED
    components = ",".join((names.SERVER_COMPONENT, names.COPY_COMPONENT))
    found.watching.label_selectors["", "v1", "pods"] = f"{names.COMPONENT} in ({components})"
    found.watching.label_selectors["", "v1", "persistentvolumeclaims"] = f"{names.COMPONENT}={names.STORAGE_COMPONENT}"
    found.watching.label_selectors["batch", "v1", "jobs"] = f"{names.COMPONENT}={names.COPY_COMPONENT}"
    found.watching.chunk_size = 500
    found.watching.server_timeout = 240
    found.watching.client_timeout = 270
    found.networking.request_timeout = 10
    found.networking.connect_timeout = 3
    found.networking.error_backoffs = [0.1, 0.3, 1, 2, 4]
    found.networking.enforce_retry_after = True
    found.queueing.error_delays = [0.5, 1, 2, 5, 10]
    # Our handlers only note things down; there is nothing to wait for at the end.
    found.queueing.idle_timeout = 1
    found.queueing.exit_timeout = 0.5
    found.process.ultimate_exiting_timeout = 20
    return found

"""Creates, fills and removes the local cluster. Every step looks first and can be repeated."""

from __future__ import annotations

import base64
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from . import cache, engine, images, node_image, tools
from .shell import Problem, run, say, step, succeeds, wait_until

HERE = Path(__file__).parent
CHART = cache.REPOSITORY / "charts" / "jupyterhub-steward"
SELF_BUILT = """
# What the node image made here needs: cgroup v1, and a resolver that is not the node's own.
networking:
  kubeProxyMode: iptables
  ipFamily: ipv4
kubeadmConfigPatches:
  - |
    kind: KubeletConfiguration
    failCgroupV1: false
    cgroupDriver: cgroupfs
    resolvConf: /kind/resolv.conf
"""
CLUSTER_SECONDS = 300
INSTALL_SECONDS = 300


@dataclass(frozen=True)
class Target:
    """One local cluster and what is installed on it."""

    name: str = "hub-steward"
    port: int = 30080
    namespace: str = "hub"
    release: str = "hub"
    values: tuple[Path, ...] = ()
    own_kubeconfig: bool = False

    @property
    def kubeconfig(self) -> Path:
        """The user's own for ``make up``, so that his kubectl works; a file apart for the tests."""
        if not self.own_kubeconfig:
            return Path(os.environ.get("KUBECONFIG", "").split(":")[0] or Path.home() / ".kube" / "config")
        return cache.root() / f"kubeconfig-{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        path = f"{cache.root() / 'bin'}:{os.environ.get('PATH', '')}"
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": path}

    @property
    def context(self) -> str:
        return f"kind-{self.name}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubectl(self, *words: str, input_text: str | None = None) -> str:
        return run(
            [cache.root() / "bin/kubectl", "--context", self.context, *words],
            env=self.environment,
            input_text=input_text,
        )

    def helm(self, *words: str | Path, problem: str = "") -> str:
        command: list[str | Path] = [cache.root() / "bin/helm", "--kube-context", self.context, *words]
        return run(command, env=self.environment, problem=problem)


def up(target: Target) -> None:
    """The cluster runs, this clone's chart is installed on it, and everything is ready."""
    cache.root().mkdir(parents=True, exist_ok=True)
    engine.ensure()
    tools.bin_directory()
    if not _exists(target):
        engine.disk_is_enough()
        _refuse_used_port(target.port)
        _create(target)
    else:
        _wake(target)
    built = images.build_all()
    _load(target, built)
    install(target, built)


def _exists(target: Target) -> bool:
    listed = run([cache.root() / "bin/kind", "get", "clusters"], env=target.environment).split()
    return target.name in listed and _is_created(target)


def _is_created(target: Target) -> bool:
    """A cluster whose creation was interrupted has a container and no working API server: it is made anew."""
    marker = cache.root() / f"created-{target.name}"
    container = f"{target.name}-control-plane"
    identity = run(["docker", "inspect", "--format", "{{.Id}}", container]).strip()
    if marker.exists() and marker.read_text() == identity:
        return True
    say(f"==> the cluster {target.name} was not finished; making it anew")
    down(target, keep_engine=True)
    return False


def _wake(target: Target) -> None:
    """A stopped engine leaves the node's container stopped."""
    container = f"{target.name}-control-plane"
    if run(["docker", "inspect", "--format", "{{.State.Running}}", container]).strip() != "true":
        with step("start the cluster's node again", "its container had been stopped"):
            run(["docker", "start", container])
    run([cache.root() / "bin/kind", "export", "kubeconfig", "--name", target.name], env=target.environment)
    target_ready(target)


def target_ready(target: Target) -> None:
    probe = [
        cache.root() / "bin/kubectl", "--kubeconfig", target.kubeconfig, "--context", target.context, "get",
        "--raw=/readyz",
    ]  # fmt: skip
    told = f"The cluster {target.name} did not answer within {CLUSTER_SECONDS} s; remove it with 'make down'"
    wait_until(probe, CLUSTER_SECONDS, told)


def _refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise Problem(
                f"Port {port} of this machine is in use; free it, or choose another with 'make up PORT=…'"
            ) from None


def _create(target: Target) -> None:
    node = node_image.ensure()
    config = (HERE / "kind.yaml").read_text().replace("@PORT@", str(target.port))
    config = config.replace("@SELF_BUILT@", SELF_BUILT if node_image.is_self_built(node) else "")
    file = cache.root() / f"kind-{target.name}.yaml"
    file.write_text(config)
    target.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    with step(f"create the kind cluster {target.name}", f"node image {node}"):
        run(
            [cache.root() / "bin/kind", "create", "cluster", "--name", target.name, "--image", node,
             "--config", file, "--wait", f"{CLUSTER_SECONDS}s"],
            env=target.environment,
            log=cache.logs() / f"kind-{target.name}.log",
            problem="The kind cluster could not be created",
        )  # fmt: skip
        target_ready(target)
        identity = run(["docker", "inspect", "--format", "{{.Id}}", f"{target.name}-control-plane"]).strip()
        (cache.root() / f"created-{target.name}").write_text(identity)


def _load(target: Target, built: dict[str, str]) -> None:
    node = f"{target.name}-control-plane"
    inside = run(["docker", "exec", node, "ctr", "-n", "k8s.io", "images", "ls", "-q"]).split()
    missing = [ref for ref in built.values() if not any(name.endswith(ref) for name in inside)]
    if not missing:
        return
    with step("load images into the cluster", ", ".join(ref.split("/")[-1] for ref in missing)):
        run(
            [cache.root() / "bin/kind", "load", "docker-image", "--name", target.name, *missing],
            env=target.environment,
            log=cache.logs() / "load.log",
            problem="The images could not be loaded into the cluster",
        )


def image_values(built: dict[str, str]) -> dict[str, object]:
    def image(name: str) -> dict[str, object]:
        repository, tag = built[name].rsplit(":", 1)
        return {"image": {"name": repository, "tag": tag}}

    return {
        "hub": image("hub"),
        "operator": image("operator"),
        "singleuser": image("lab"),
        "proxy": {"chp": image("proxy")},
    }


def install(target: Target, built: dict[str, str]) -> None:
    """Install or upgrade the release, unless exactly this is installed already."""
    chart_dependencies()
    generated = cache.root() / f"values-{target.name}.json"
    generated.write_text(json.dumps(image_values(built)))
    values = [HERE / "values.yaml", generated, *target.values]
    key = cache.fingerprint(*values, CHART, CHART.parent / "jupyterhub-steward-crds")
    marker = cache.root() / f"installed-{target.name}"
    container = run(["docker", "inspect", "--format", "{{.Id}}", f"{target.name}-control-plane"]).strip()
    if marker.exists() and marker.read_text() == container + key and _is_ready(target):
        say("==> the chart is installed and ready; nothing to do")
        return
    with step(f"install the chart as {target.release} into {target.namespace}", "and wait until it is ready"):
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": target.namespace,
                # Proves that nothing of the chart needs more than the restricted standard allows.
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
        target.kubectl("apply", "-f", "-", input_text=json.dumps(namespace))
        flags: list[str | Path] = []
        for file in values:
            flags += ["--values", file]
        _clear_interrupted(target)
        try:
            target.helm(
                "upgrade", "--install", target.release, CHART, "--namespace", target.namespace, *flags,
                "--wait", "--timeout", f"{INSTALL_SECONDS}s",
                problem="The chart could not be installed",
            )  # fmt: skip
        except Problem as problem:
            raise Problem(f"{problem}\n\nWhat the cluster says:\n{report(target)}") from problem
    marker.write_text(container + key)


def _clear_interrupted(target: Target) -> None:
    """A helm run that was cut off leaves the release locked; Helm refuses to touch it until that is cleared."""
    listed = json.loads(target.helm("list", "--namespace", target.namespace, "--output", "json") or "[]")
    for release in listed:
        if release["name"] != target.release or not release["status"].startswith("pending"):
            continue
        say(f"    the release was left {release['status']}; clearing that")
        if release["status"] == "pending-install":
            target.helm("uninstall", target.release, "--namespace", target.namespace, "--wait")
        else:
            target.helm("rollback", target.release, "--namespace", target.namespace, "--wait")


def report(target: Target) -> str:
    """Pods, events and the ends of the logs: what one looks at first when something does not come up."""
    parts = [target.kubectl("-n", target.namespace, "get", "pods,pvc,vreset,srestart", "-o", "wide")]
    parts.append(target.kubectl("-n", target.namespace, "get", "events", "--sort-by=.lastTimestamp"))
    for name in ("hub", "operator", "proxy"):
        try:
            parts.append(
                f"--- {name}\n"
                + target.kubectl("-n", target.namespace, "logs", f"deployment/{name}", "--tail=60", "--ignore-errors")
            )
        except Problem as problem:
            parts.append(f"--- {name}: no logs: {problem}")
    return "\n".join(parts)


def _is_ready(target: Target) -> bool:
    listed = json.loads(target.kubectl("-n", target.namespace, "get", "deployments", "-o", "json"))["items"]
    names = {d["metadata"]["name"] for d in listed if d["status"].get("readyReplicas")}
    return {"hub", "proxy", "operator"} <= names


def chart_dependencies() -> None:
    """The CRD chart inside the main chart, as Helm wants it."""
    packaged = CHART / "charts"
    key = cache.fingerprint(CHART.parent / "jupyterhub-steward-crds", CHART / "Chart.yaml")
    marker = packaged / ".key"
    if marker.exists() and marker.read_text() == key:
        return
    run(
        [cache.root() / "bin/helm", "dependency", "build", "--skip-refresh", CHART], problem="Packaging the CRDs failed"
    )
    marker.write_text(key)


def secret(target: Target, name: str) -> str:
    encoded = target.kubectl("-n", target.namespace, "get", "secret", name, "-o", "jsonpath={.data.value}")
    return base64.b64decode(encoded).decode()


def tell(target: Target) -> None:
    """Where to go and how to log in."""
    say(f"""
Hub Steward is ready.

  Page            {target.url}
  ann, bob        password {secret(target, "hubsteward-user-password")}
                  (one password for both: it does not separate users, this cluster is for trying things out)
  admin           password {secret(target, "hubsteward-admin-password")}

  kubectl         export PATH={cache.root() / "bin"}:$PATH
                  kubectl --context {target.context} --namespace {target.namespace} get vreset,srestart
  Remove it all   make down
""")


def forget_left_over(target: Target) -> None:
    """Remove a cluster that an earlier run was cut off from, so that nothing of it is taken for this run's."""
    engine.ensure()
    tools.bin_directory()
    if target.name in run([cache.root() / "bin/kind", "get", "clusters"], env=target.environment).split():
        down(target, keep_engine=True)


def down(target: Target, *, keep_engine: bool = False) -> None:
    """Remove the cluster, and stop an engine that was started for it."""
    for marker in ("created", "installed"):
        (cache.root() / f"{marker}-{target.name}").unlink(missing_ok=True)
    kind = cache.root() / "bin/kind"
    if engine.answers() and kind.exists():
        with step(f"remove the cluster {target.name}", "with everything that was stored in it"):
            run([kind, "delete", "cluster", "--name", target.name], env=target.environment)
    elif engine.answers() and succeeds(["docker", "inspect", f"{target.name}-control-plane"]):
        run(["docker", "rm", "-f", "-v", f"{target.name}-control-plane"])
    if target.own_kubeconfig:
        target.kubeconfig.unlink(missing_ok=True)
    if not keep_engine:
        engine.stop_if_ours()

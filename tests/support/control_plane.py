"""A real kube-apiserver with etcd and the controller manager, from the programs that the node image is made of."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import tools
from cluster.shell import run

from .cluster import wait_for

Json = dict[str, Any]
ADMIN_TOKEN = "test-admin"
CONTROLLERS = "job-controller,garbage-collector-controller,persistentvolumeclaim-protection-controller,serviceaccount-controller,namespace-controller,resourcequota-controller"


_ports = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that no connection of this machine's own takes meanwhile (those begin at 32768).

    Each is given out once: between this and the moment when its owner listens, another would get it, too.
    """
    while True:
        port = _ports.randrange(18_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


#: What the operator sends, and nothing else.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata", "users": ["system:serviceaccount:hub:operator"]}, {"level": "None"}],
}  # fmt: skip


class ControlPlane:
    def __init__(self) -> None:
        self.programs = tools.kubernetes()
        self.directory = Path(tempfile.mkdtemp(prefix="hub-steward-api-"))
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._insecure = ssl._create_unverified_context()  # noqa: S323
        self._kept = threading.local()

    def start(self) -> None:
        etcd, peer = free_port(), free_port()
        self._run(
            "etcd", f"--data-dir={self.directory}/etcd", f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )  # fmt: skip
        key = self.directory / "sa.key"
        run(["openssl", "genrsa", "-out", key, "2048"])
        tokens = self.directory / "tokens.csv"
        tokens.write_text(f'{ADMIN_TOKEN},test-admin,1,"system:masters"\n')
        policy = self.directory / "audit.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        self._run(
            "kube-apiserver", f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_file}",
            "--audit-log-mode=blocking", f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={self.port}",
            "--bind-address=127.0.0.1", f"--cert-dir={self.directory}/certs", "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC", f"--token-auth-file={tokens}", "--service-account-issuer=https://test",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
        )  # fmt: skip
        wait_for("the API server is ready", self._is_ready, 60)
        kubeconfig = self.kubeconfig("controller-manager", ADMIN_TOKEN, self.url)
        self._run(
            "kube-controller-manager", f"--kubeconfig={kubeconfig}", "--leader-elect=false",
            f"--controllers={CONTROLLERS}", f"--cert-dir={self.directory}/certs-kcm", "--secure-port=0",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        log = (self.directory / f"{program}.log").open("wb")
        command = [str(self.programs / program), *arguments]
        self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory))

    def _is_ready(self) -> bool:
        for process in self._processes:
            if process.poll() is not None:
                logs = "\n".join(f.read_text()[-2000:] for f in self.directory.glob("*.log"))
                raise AssertionError(f"a part of the control plane ended:\n{logs}")
        try:
            return "ok" in str(self.raw("GET", "/readyz"))
        except (urllib.error.URLError, OSError, Refused):
            return False

    @property
    def audit_file(self) -> Path:
        return self.directory / "audit.log"

    def audit(self, begin: int = 0) -> list[Json]:
        """What the operator has sent, from an offset of `audit_file` on, oldest first."""
        with self.audit_file.open() as log:
            log.seek(begin)
            return [json.loads(line) for line in log if line.endswith("\n")]

    def stop(self) -> None:
        # Nothing of it is kept, so nobody waits for an orderly end.
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def kubeconfig(self, name: str, token: str, server: str) -> Path:
        file = self.directory / f"{name}.kubeconfig"
        cluster: Json = {"server": server}
        if server.startswith("https"):
            cluster["insecure-skip-tls-verify"] = True
        file.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
        }))  # fmt: skip
        return file

    def raw(
        self, method: str, path: str, body: Any = None, token: str = ADMIN_TOKEN, content_type: str = "application/json"
    ) -> Any:
        """One request as the holder of ``token``. Raises `Refused`."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
        status, text = self._send(method, path, data, headers)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = text
        if status >= 400:
            raise Refused(status, answer.get("message", text) if isinstance(answer, dict) else text)
        return answer

    def _send(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, str]:
        """Each thread keeps a connection: a handshake for every call would take more of the machine than the call."""
        for attempt in (1, 2):
            connection = getattr(self._kept, "connection", None)
            is_new = connection is None
            if connection is None:
                connection = self._kept.connection = http.client.HTTPSConnection(
                    "127.0.0.1", self.port, timeout=30, context=self._insecure
                )
            try:
                connection.request(method, path, body=data, headers=headers)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except (http.client.HTTPException, OSError):
                connection.close()
                self._kept.connection = None
                # A kept connection may have been closed by the server meanwhile.
                if is_new or attempt == 2:
                    raise
        raise AssertionError("not reached")

    def watch(self, path: str) -> Iterator[Json]:
        """Everything there is as ADDED, then what happens, until the API server ends the watch."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        request = urllib.request.Request(f"{self.url}{path}?watch=1&timeoutSeconds=3600", headers=headers)
        with urllib.request.urlopen(request, context=self._insecure, timeout=3700) as response:
            for line in response:
                yield json.loads(line)

    def kubectl(self, *words: str, input_text: str | None = None) -> str:
        return run(
            [self.programs / "kubectl", "--kubeconfig", self.kubeconfig("kubectl", ADMIN_TOKEN, self.url), *words],
            input_text=input_text,
            env={"HOME": os.environ.get("HOME", "/root")},
        )

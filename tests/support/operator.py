"""The real operator as a process, behind a proxy that records what it sends and can kill it between two requests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from .cluster import wait_for
from .control_plane import ControlPlane, free_port
from .faults import ANSWERS, Fault, Injections

Json = dict[str, Any]
#: The operator's image holds no Kubernetes client library, which kopf would import if it were there.
AS_IN_THE_IMAGE = (
    "import sys; sys.modules.update(kubernetes=None, kubernetes_asyncio=None);"
    "from steward_operator.main import main; sys.exit(main())"
)
#: Not part of carrying out a request.
UNCOUNTED = ("leases", "events", "selfsubjectaccessreviews")


@dataclass(frozen=True)
class Write:
    method: str
    path: str
    body: Any
    status: int
    dry_run: bool = False
    #: When it was sent, by the monotonic clock, and when it was answered.
    began: float = 0.0
    at: float = field(default_factory=time.monotonic)

    @property
    def happened(self) -> bool:
        return self.status < 300 and not self.dry_run


@dataclass
class Kill:
    """SIGKILL before the n-th write, or read, reaches the API server, or after it was committed and before the answer."""

    number: int
    when: str
    what: str = "write"
    done: threading.Event = field(default_factory=threading.Event)


class Served:
    """A small web server with a loop and a thread of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()

    async def _open(self) -> None:
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()

    def app(self) -> web.Application:
        """Called in the loop."""
        raise NotImplementedError


class Proxy(Served):
    """Plain HTTP in, the API server behind."""

    def __init__(self, control_plane: ControlPlane) -> None:
        super().__init__()
        self._upstream = control_plane.url
        self.writes: list[Write] = []
        self.kill: Kill | None = None
        self.hold: Callable[[str, str], threading.Event | None] | None = None
        self.injections: Injections | None = None
        #: What is done to every line of a watch: the line, changed; None to leave it out.
        self.watch_filter: Callable[[bytes], bytes | None] | None = None
        self.victim: Callable[[], int] = lambda: 0
        #: Reads and writes that belong to requests.
        self.sent: Counter[str] = Counter()
        self._late: list[asyncio.Task[None]] = []
        #: Whether the operator behind this proxy holds a Lease that nobody else sees: two of them both lead.
        self.keeps_lease = False
        self._lease: Json | None = None

    def arm(self, kill: Kill | None) -> None:
        self.writes, self.sent, self.kill = [], Counter(), kill

    def app(self) -> web.Application:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=False, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        return app

    def next_number(self, what: str) -> int:
        """Of one read or write that counts, to whomever."""
        self.sent[what] += 1
        return self.sent[what]

    def strike(self, when: str, what: str, number: int) -> bool:
        kill = self.kill
        if kill is None or kill.done.is_set() or (kill.when, kill.what, kill.number) != (when, what, number):
            return False
        os.kill(self.victim(), signal.SIGKILL)
        kill.done.set()
        return True

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        is_ours = not any(name in request.path for name in UNCOUNTED) and "watch" not in request.query
        counted = request.method != "GET" and is_ours
        if self.keeps_lease and "/leases" in request.path:
            return self._answer_lease(request.method, body)
        what = "read" if request.method == "GET" else "write"
        number = self.next_number(what) if is_ours else 0
        if number and self.strike("before", what, number):
            raise web.HTTPBadGateway
        if self.hold and (gate := self.hold(request.method, request.path_qs)):
            await asyncio.to_thread(gate.wait, 30)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length")}
        if counted and self.injections and (fault := self.injections.next_fault(request.path_qs, body.decode())):
            return await self._suffer(fault, request, body, headers)
        if is_ours and not counted and self.injections and (fault := self.injections.next_read_fault()):
            return await self._suffer(fault, request, body, headers)
        began = time.monotonic()
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body or None, headers=headers
        ) as upstream:
            if counted:
                self._note(request, body, upstream.status, began)
            if number and self.strike("after", what, number):
                raise web.HTTPBadGateway
            response = web.StreamResponse(status=upstream.status)
            for name in ("Content-Type", "Retry-After", "Content-Encoding"):
                if name in upstream.headers:
                    response.headers[name] = upstream.headers[name]
            await response.prepare(request)
            try:
                if (change := self.watch_filter) and "watch" in request.query:
                    async for line in upstream.content:
                        if (changed := change(line)) is not None:
                            await response.write(changed)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            except (ConnectionResetError, aiohttp.ClientError):
                pass
            return response

    def hold_creation(self, *, dry_run: bool = False) -> tuple[threading.Event, threading.Event]:
        """The next creation of a claim waits at the door: (it is there, let it in)."""
        there, let_in = threading.Event(), threading.Event()

        def hold(method: str, path: str) -> threading.Event | None:
            if method == "POST" and "persistentvolumeclaims" in path and ("dryRun" in path) == dry_run:
                there.set()
                return let_in
            return None

        self.hold = hold
        return there, let_in

    def _note(self, request: web.Request, body: bytes, status: int, began: float) -> None:
        content = json.loads(body) if body else None
        self.writes.append(Write(request.method, request.path, content, status, "dryRun" in request.query, began))

    def _answer_lease(self, method: str, body: bytes) -> web.Response:
        """What the API server would say if nobody else wanted the Lease."""
        if method == "GET" and self._lease is None:
            return web.json_response({"kind": "Status", "reason": "NotFound", "message": "no lease"}, status=404)
        if method != "GET":
            lease = json.loads(body)
            lease["metadata"]["resourceVersion"] = str(time.monotonic_ns())
            self._lease = lease
        return web.json_response(self._lease)

    async def _suffer(
        self, fault: Fault, request: web.Request, body: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        """What becomes of a write, or a read, that meets a fault."""

        async def send() -> tuple[int, bytes]:
            began = time.monotonic()
            async with self._session.request(
                request.method, self._upstream + request.path_qs, data=body or None, headers=headers
            ) as upstream:
                if request.method != "GET":
                    self._note(request, body, upstream.status, began)
                return upstream.status, await upstream.read()

        def break_off() -> web.StreamResponse:
            # The client may have gone already.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

        if fault in ANSWERS:
            told = {"kind": "Status", "status": "Failure", "reason": "Injected", "message": f"injected {fault.value}"}
            after = {"Retry-After": "1"} if fault is Fault.TOO_MANY else {}
            return web.json_response(told, status=int(fault.value), headers=after)
        match fault:
            case Fault.DROPPED:
                return break_off()
            case Fault.LOST_ANSWER:
                await send()
                return break_off()
            case Fault.RESET:
                status, answer = await send()
                response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
                response.content_length = len(answer)
                await response.prepare(request)
                await response.write(answer[: len(answer) // 2])
                break_off()
                return response
            case Fault.DELAYED:
                await asyncio.sleep(1)
            case Fault.HUNG:
                await asyncio.sleep(15)
                return break_off()
            case Fault.DUPLICATED:
                first = await send()
                await send()
                return web.Response(status=first[0], body=first[1], content_type="application/json")
            case Fault.TRUNCATED:
                status, answer = await send()
                return web.Response(status=status, body=answer[: len(answer) // 2], content_type="application/json")
            case Fault.LATE:

                async def later() -> None:
                    await asyncio.sleep(2)
                    await send()

                self._late.append(asyncio.create_task(later()))
                return break_off()
        status, answer = await send()
        return web.Response(status=status, body=answer, content_type="application/json")


class FakeHub(Served):
    """The two calls of the hub's REST API that a Recreate makes, on pods of the test's own."""

    def __init__(self, stop: Callable[[str, str, str], bool], start: Callable[[str], None]) -> None:
        """``stop`` is given the user, the pod's UID and its container's ID or "", and answers whether they were still
        the ones."""
        super().__init__()
        self._stop_server, self._start_server = stop, start
        self.calls: list[tuple[str, str]] = []
        #: Users whose start is taken and never becomes a pod.
        self.dead_starts: set[str] = set()
        self.refuses_token = False
        #: Counts the calls among the requests that the operator may be killed at.
        self.counted_by: Proxy | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/hub/api/user", self._identify)
        app.router.add_post("/hub/api/steward/v1/users/{user}/server/stop", self._stop)
        app.router.add_route("POST", "/hub/api/users/{user}/server", self._handle)
        return app

    async def _identify(self, request: web.Request) -> web.Response:
        if self.refuses_token:
            return web.json_response({"status": 403, "message": "Forbidden"}, status=403)
        return web.json_response({"name": "hubsteward-operator"})

    async def _stop(self, request: web.Request) -> web.Response:
        user = request.match_info["user"]
        wanted = await request.json()

        def stop() -> web.Response:
            self.calls.append(("DELETE", user))
            if self._stop_server(user, wanted["podUID"], wanted.get("containerID", "")):
                return web.json_response({}, status=202)
            return web.json_response({"status": 409, "message": "Another pod runs by now."}, status=409)

        return await self._between_kills(stop)

    async def _handle(self, request: web.Request) -> web.Response:
        user = request.match_info["user"]

        def start() -> web.Response:
            self.calls.append((request.method, user))
            if user not in self.dead_starts:
                self._start_server(user)
            return web.json_response({}, status=202)

        return await self._between_kills(start)

    async def _between_kills(self, act: Callable[[], web.Response]) -> web.Response:
        number = self.counted_by.next_number("write") if self.counted_by else 0
        if self.counted_by and self.counted_by.strike("before", "write", number):
            raise web.HTTPBadGateway
        answer = await asyncio.to_thread(act)
        if self.counted_by and self.counted_by.strike("after", "write", number):
            raise web.HTTPBadGateway
        return answer


class Operator:
    """Starts, kills and restarts the operator's process."""

    def __init__(
        self, kubeconfig: Path, config: Json, hub_port: int, namespace: str, directory: Path, identity: str = "test"
    ) -> None:
        self.identity = identity
        self._kubeconfig, self._hub_port, self._namespace = kubeconfig, hub_port, namespace
        self._config = directory / "operator.json"
        self._config.write_text(json.dumps(config))
        self.log = directory / "operator.log"
        self.health_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> None:
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", AS_IN_THE_IMAGE, f"--namespace={self._namespace}", "--release=hub",
                 f"--config={self._config}", f"--hub-url=http://127.0.0.1:{self._hub_port}/hub/api",
                 f"--health-port={self.health_port}", f"--identity={self.identity}", *more],
                env={**os.environ, "KUBECONFIG": str(self._kubeconfig)}, stdout=stream, stderr=stream,
            )  # fmt: skip

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def audit_lines(self) -> defaultdict[str, list[Json]]:
        """By the UID of the request."""
        found = defaultdict(list)
        for line in self.log.read_text().splitlines():
            if '"audit": true' in line:
                entry = json.loads(line)
                found[entry["uid"]].append(entry)
        return found

    def wait_ready(self) -> None:
        wait_for("the operator is ready", self.is_ready, 30, every=0.05)

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the operator ended:\n{self.log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, path: str) -> tuple[int, str]:
        """What the operator itself says over HTTP."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels."""
        lines = [line.rpartition(" ") for line in self.ask("/metrics")[1].splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines if name}

    def is_idle(self) -> bool:
        """It has nothing to do, as far as its watches show it."""
        samples = self.metrics()
        waiting = [value for name, value in samples.items() if name.startswith("hubsteward_requests_unfinished{")]
        return not any(waiting) and not samples["hubsteward_queue_depth"]

    def terminate(self) -> None:
        """Tell it to stop, and do not wait for it."""
        assert self._process is not None
        self._process.terminate()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait_end(self, seconds: float = 30) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

"""The test cluster as tests see it: kubectl, the hub's REST API, and conditions that are waited for."""

from __future__ import annotations

import http.cookiejar
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from cluster.local import Target, secret

T = TypeVar("T")
Json = dict[str, Any]


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = 60, every: float = 0.2) -> T:
    """The first true answer of ``probe``. Fails with the last answer when it does not come in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last answer: {answer!r}")
        time.sleep(every)


class Kube:
    """kubectl on the test cluster, in the hub's namespace."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, *words: str, input_text: str | None = None) -> str:
        return self.target.kubectl("--namespace", self.target.namespace, *words, input_text=input_text)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))

    def apply(self, *objects: Json) -> None:
        self("apply", "-f", "-", input_text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def create(self, manifest: Json, *flags: str) -> str:
        """Create one object; its name."""
        return self("create", *flags, "-f", "-", "-o", "jsonpath={.metadata.name}", input_text=json.dumps(manifest))

    def pod(self, user: str, server: str = "") -> Json | None:
        for pod in self.json("get", "pods", "-l", "component=singleuser-server")["items"]:
            notes = pod["metadata"].get("annotations", {})
            if (notes.get("hub.jupyter.org/username"), notes.get("hub.jupyter.org/servername", "")) == (user, server):
                return pod
        return None

    def claims(self, user: str) -> dict[str, Json]:
        """The user's claims by kind."""
        listed = self.json("get", "pvc", "-l", "component=singleuser-storage")["items"]
        return {
            claim["metadata"]["labels"].get("hubsteward.io/volume", "home"): claim
            for claim in listed
            if claim["metadata"].get("annotations", {}).get("hub.jupyter.org/username") == user
        }

    def uids(self, user: str) -> dict[str, str]:
        return {kind: claim["metadata"]["uid"] for kind, claim in self.claims(user).items()}

    def run_in(self, pod: str, *command: str) -> str:
        return self("exec", pod, "-c", "notebook", "--", *command)

    def request(self, kind: str, name: str) -> Json:
        return self.json("get", kind, name)

    def finished(self, kind: str, name: str, seconds: float = 120) -> Json:
        """The request once it has ended, waited for as an administrator does."""
        self("wait", "--for=condition=Finished", f"{kind}/{name}", f"--timeout={seconds:.0f}s")
        return self.request(kind, name)


class Answer:
    def __init__(self, status: int, text: str, url: str, headers: Any) -> None:
        self.status = status
        self.text = text
        self.url = url
        self.headers = headers

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Session:
    """One person's browser session, without the browser: cookies, the XSRF token, the REST API."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self.user = user
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))
        self._xsrf = ""
        self.login(user, password)

    def login(self, user: str, password: str) -> None:
        page = self.raw("GET", "/hub/login", headers={"Sec-Fetch-Mode": "navigate"})
        form = {"username": user, "password": password, "_xsrf": self._token(page.text)}
        answer = self.raw(
            "POST", f"/hub/login?_xsrf={urllib.parse.quote(form['_xsrf'])}",
            urllib.parse.urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"},
        )  # fmt: skip
        if answer.status != 200 or "/hub/login" in answer.url:
            raise PermissionError(f"{user} could not log in: {answer.status}")
        self._xsrf = self._token(self.raw("GET", "/hub/home", headers={"Sec-Fetch-Mode": "navigate"}).text)

    @staticmethod
    def when_up(url: str, user: str, password: str, seconds: float = 60) -> Session:
        """After an installation: the way to a new pod is open a moment after the pod is ready."""

        def logged_in() -> Session | None:
            try:
                return Session(url, user, password)
            except (AssertionError, OSError):
                return None

        return wait_for(f"{user} can log in", logged_in, seconds, every=1)

    @staticmethod
    def _token(page: str) -> str:
        found = re.search(r'xsrf_token: "([^"]*)"', page) or re.search(r'name="_xsrf" value="([^"]*)"', page)
        assert found, "the page carries no XSRF token"
        return found[1]

    def raw(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
        try:
            with self._opener.open(request, timeout=60) as response:
                return Answer(response.status, response.read().decode(errors="replace"), response.url, response.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(errors="replace"), error.url or "", error.headers)

    def api(self, method: str, path: str, body: Any = None) -> Answer:
        """A call as the page makes it: cookie, XSRF header, JSON."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"X-XSRFToken": self._xsrf, "Content-Type": "application/json", "Sec-Fetch-Mode": "cors"}
        return self.raw(method, f"/hub/api/{path}", data, headers)

    def _server(self, user: str | None, server: str) -> str:
        quoted = urllib.parse.quote(user or self.user, safe="")
        return f"users/{quoted}/servers/{server}" if server else f"users/{quoted}/server"

    def card(self, user: str | None = None, server: str = "") -> Json:
        answer = self.api("GET", f"steward/v1/{self._server(user, server)}")
        assert answer.status == 200, answer.text
        return answer.json

    def restart(self, body: Any = None, user: str | None = None, server: str = "") -> Answer:
        return self.api("POST", f"steward/v1/{self._server(user, server)}/restart", body or {})

    def reset(self, volumes: list[str], user: str | None = None, server: str = "", **more: Any) -> Answer:
        return self.api("POST", f"steward/v1/{self._server(user, server)}/reset", {"volumes": volumes, **more})

    def start(self, user: str | None = None, server: str = "") -> Answer:
        return self.api("POST", self._server(user, server))

    def stop(self, user: str | None = None, server: str = "") -> Answer:
        return self.api("DELETE", self._server(user, server))

    def state(self, server: str = "") -> str:
        """What the page says of the server. On a busy machine the API server may be late for the hub: it is asked again."""

        def known() -> str | None:
            state = str(self.card(server=server)["state"])
            return None if state == "cluster-away" else state

        return wait_for(f"the hub knows of {self.user}'s server", known, 60)

    def start_and_wait(self, server: str = "") -> None:
        answer = self.start(server=server)
        assert answer.status in (201, 202), answer.text

        def runs() -> bool:
            state = self.state(server)
            assert state in ("starting", "running"), f"{self.user}'s server did not start: {state}"
            return state == "running"

        wait_for(f"{self.user}'s server runs", runs, 120)

    def stop_and_wait(self, server: str = "") -> None:
        answer = self.stop(server=server)
        assert answer.status in (202, 204, 404), answer.text
        wait_for(f"{self.user}'s server is stopped", lambda: self.state(server) == "stopped", 60)


def passwords(target: Target) -> dict[str, str]:
    common = secret(target, "hubsteward-user-password")
    return {"admin": secret(target, "hubsteward-admin-password"), "*": common}

"""The hub's REST API, as far as stopping and starting a server needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import quote

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=30, connect=3)


class HubError(Exception):
    """The hub refused, or could not be reached (``status`` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class HubApi(Protocol):
    async def stop_server(self, user: str, server: str, pod_uid: str, container_id: str = "") -> None:
        """Only the pod of that UID, and that container; `HubError` 409 when another has taken its place."""
        ...

    async def start_server(self, user: str, server: str) -> None: ...

    async def who_am_i(self) -> str:
        """Name of the service that the token belongs to."""
        ...

    async def close(self) -> None: ...


class HttpHubApi:
    """``url`` is the hub's API with its base path, for example ``http://hub:8081/hub/api``."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(timeout=TIMEOUT, headers={"Authorization": f"token {token}"})

    def _server(self, user: str, server: str, prefix: str = "") -> str:
        base = f"{self._url}/{prefix}users/{quote(user, safe='')}"
        return f"{base}/servers/{quote(server, safe='')}" if server else f"{base}/server"

    async def _call(self, method: str, url: str, body: Mapping[str, str] | None = None) -> str:
        try:
            async with self._session.request(method, url, json=body) as response:
                text = await response.text()
                if response.status >= 400:
                    raise HubError(response.status, _message(text))
                return text
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise HubError(0, f"the hub could not be reached: {problem!r}") from problem

    async def stop_server(self, user: str, server: str, pod_uid: str, container_id: str = "") -> None:
        """The hub begins to stop the server; one that is not running is as good."""
        wanted = {"podUID": pod_uid} | ({"containerID": container_id} if container_id else {})
        try:
            await self._call("POST", f"{self._server(user, server, 'steward/v1/')}/stop", wanted)
        except HubError as error:
            if error.status != 404:
                raise

    async def start_server(self, user: str, server: str) -> None:
        # Without a body the hub starts the server with the options the user chose last.
        await self._call("POST", self._server(user, server))

    async def who_am_i(self) -> str:
        return str(json.loads(await self._call("GET", f"{self._url}/user")).get("name", ""))

    async def close(self) -> None:
        await self._session.close()


def _message(text: str) -> str:
    with suppress(ValueError):
        parsed = json.loads(text)
        if isinstance(parsed, dict) and parsed.get("message"):
            return str(parsed["message"])
    return text[:300]

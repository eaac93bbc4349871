"""Faults between operator and API server: what may become of one write, and whose write it is."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """One thing that happens to one write. The first eight are answers, the others happen to the connection."""

    FORBIDDEN = "403"
    NOT_FOUND = "404"
    CONFLICT = "409"
    INVALID = "422"
    TOO_MANY = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    DROPPED = "dropped before it arrives"
    LOST_ANSWER = "answer lost"
    DELAYED = "delayed"
    HUNG = "hung"
    DUPLICATED = "duplicated"
    RESET = "connection reset in the middle of the answer"
    TRUNCATED = "answer truncated"
    LATE = "arrives after its sender gave up"


ANSWERS = [fault for fault in Fault if fault.value.isdigit()]
#: What may become of a read. No API server says of what is there that it is not, or that reading it is a conflict.
OF_READS = [
    Fault.TOO_MANY, Fault.INTERNAL, Fault.UNAVAILABLE, Fault.GATEWAY_TIMEOUT, Fault.DROPPED, Fault.LOST_ANSWER,
    Fault.DELAYED, Fault.HUNG, Fault.RESET, Fault.TRUNCATED,
]  # fmt: skip


@dataclass
class Injection:
    """The ``number``-th write for ``user`` meets ``fault``."""

    user: str
    number: int
    fault: Fault
    met: bool = False


@dataclass
class Injections:
    """Counts the writes of every user apart, and hands out the fault that is due."""

    planned: dict[str, Injection] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    deletes: dict[str, list[str]] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, injection: Injection) -> None:
        """For the user's next request: what was written for an earlier one does not count."""
        self.counts.pop(injection.user, None)
        self.planned[injection.user] = injection

    def own(self, uid: str, user: str) -> None:
        """What has this UID in its name is the user's."""
        self._owners[uid] = user

    def owner(self, path: str, body: str) -> str:
        for text in (path, body):
            if found := re.search(r"chaos\d+", text):
                return found[0]
            for uid, user in self._owners.items():
                if uid in text:
                    return user
        return ""

    def next_read_fault(self) -> Fault | None:
        """Called once for every read that is no watch."""
        return None

    def next_fault(self, path: str, body: str) -> Fault | None:
        """Called once for every write."""
        user = self.owner(path, body)
        if not user:
            return None
        with self._lock:
            self.counts[user] = self.counts.get(user, 0) + 1
            injection = self.planned.get(user)
            if injection is None or injection.met or injection.number != self.counts[user]:
                return None
            injection.met = True
            return injection.fault


class ReadFaults(Injections):
    """The same fault at every so many reads, whosever they are; none at writes."""

    def __init__(self, fault: Fault, every: int) -> None:
        super().__init__()
        self._fault, self._every = fault, every
        self.reads = self.met = 0

    def next_fault(self, path: str, body: str) -> Fault | None:
        return None

    def next_read_fault(self) -> Fault | None:
        with self._lock:
            self.reads += 1
            if self.reads % self._every:
                return None
            self.met += 1
            return self._fault


class RandomFaults(Injections):
    """A fault at every so many writes, whosever they are. ``share`` of 1."""

    def __init__(self, seed: int, share: float) -> None:
        super().__init__()
        self._chance, self._share = random.Random(seed), share
        self.met = 0

    def next_fault(self, path: str, body: str) -> Fault | None:
        with self._lock:
            if self._chance.random() >= self._share:
                return None
            self.met += 1
            return self._chance.choice(list(Fault))

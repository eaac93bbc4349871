"""How many restarts of a server's container there were of late: what keeps a restart from meeting the crash back-off."""

from __future__ import annotations

from datetime import timedelta

from steward_operator.core.model import Pod
from steward_operator.engine.store import Servers

from tests.support.builders import NOW, after, pod, stamp

WINDOW = timedelta(minutes=10)


def shown(restarts: int, ended_at: float = 0) -> Pod:
    """A server with so many restarts, the last of them so many seconds after `NOW`."""
    return pod(restarts=restarts, last={"exitCode": 0, "finishedAt": stamp(after(ended_at))})


def test_the_increases_that_were_seen_count_for_as_long_as_the_window() -> None:
    servers = Servers(WINDOW)
    servers.put(shown(5, -900), after(-900))
    assert servers.recent_restarts(shown(5, -900), NOW) == 0, "old ones are of no matter"
    for number, moment in enumerate((0, 100, 200), start=6):
        servers.put(shown(number, moment), after(moment))
    assert servers.recent_restarts(shown(8, 200), after(300)) == 3
    assert servers.recent_restarts(shown(8, 200), after(650)) == 2
    assert servers.recent_restarts(shown(8, 200), after(801)) == 0


def test_increases_that_come_together_are_all_counted() -> None:
    servers = Servers(WINDOW)
    servers.put(shown(0), after(-900))
    servers.put(shown(3), NOW)
    assert servers.recent_restarts(shown(3), NOW) == 3


def test_a_process_that_has_not_watched_for_so_long_takes_all_restarts_for_recent_ones() -> None:
    """The operator was restarted meanwhile: it cannot know when they were, only when the last one was."""
    assert Servers(WINDOW).recent_restarts(shown(4, -30), NOW) == 4
    assert Servers(WINDOW).recent_restarts(shown(4, -601), NOW) == 0
    watching = Servers(WINDOW)
    watching.put(shown(4, -30), after(-20))
    watching.put(shown(5, -10), after(-10))
    assert watching.recent_restarts(shown(5, -10), NOW) == 5


def test_a_live_look_counts_where_the_watch_is_behind() -> None:
    servers = Servers(WINDOW)
    servers.put(shown(0), after(-900))
    assert servers.recent_restarts(shown(1), NOW) == 1


def test_a_pod_that_is_gone_takes_its_count_with_it() -> None:
    servers = Servers(WINDOW)
    servers.put(shown(0), after(-900))
    servers.put(shown(3), NOW)
    servers.drop("pod-1")
    assert servers.uids() == set()
    assert servers.names_of("ann") == []
    assert servers.recent_restarts(pod(), NOW) == 0

"""What may happen to a reset on paper, one event at a time, and what has to hold when it is over."""

from __future__ import annotations

from typing import Any

from .paper import Leader, PaperCluster

EVENTS = [
    *["a request", "a rest", "a send"] * 4,
    *["a turn"] * 8,
    *["b request", "b rest", "b send", "b turn"],
    *["a late", "b late", "arrival"],
    *["start server", "stop server", "pods go", "copies end", "copies break off", "forget jobs"],
    *["cancel", "delete request", "later", "slow", "reap", "crash", "quota", "unreadable", "stranger"],
    "delete claim",
]


def happen(cluster: PaperCluster, leaders: dict[str, Leader], event: str, number: int = 0) -> None:
    """One event of a schedule; ``number`` chooses where there is a choice."""
    match event.split():
        case [("a" | "b") as who, what]:
            leader = leaders[who]
            act: dict[str, Any] = {
                "request": leader.read_request, "rest": leader.read_rest, "send": leader.send,
                "late": leader.send_late, "turn": leader.turn,
            }  # fmt: skip
            act[what]()
        case ["arrival"]:
            cluster.deliver(number)
        case ["start", _]:
            cluster.start_server()
        case ["stop", _]:
            cluster.stop_server()
        case ["pods", _]:
            cluster.pods_go()
        case ["copies", "end"]:
            cluster.copies_end()
        case ["copies", *_]:
            cluster.copies_break_off()
        case ["forget", _]:
            cluster.forget_jobs()
        case ["cancel"]:
            cluster.cancel()
        case ["delete", "claim"]:
            cluster.delete_claim(number)
        case ["delete", _]:
            cluster.delete_request()
        case ["later"]:
            cluster.later(20)
        case ["slow"]:
            cluster.slow = not cluster.slow
        case ["reap"]:
            cluster.reap()
        case ["crash"]:
            leaders["a"].crash()
        case ["quota"]:
            cluster.refuse_creation = not cluster.refuse_creation
        case ["stranger"]:
            cluster.stranger()
        case ["unreadable"]:
            cluster.unreadable = not cluster.unreadable
        case _:
            raise AssertionError(event)


def check(cluster: PaperCluster, leader: Leader) -> None:
    """Nothing goes wrong any more; then what was still on its way arrives, and must not do harm."""
    cluster.settle(leader)
    cluster.start_server()
    was = {
        name: volume.content
        for name, volume in cluster.volumes.items()
        # A backup that nobody has declared complete may be finished by its own late copy, or be on its way out: it is
        # nobody's work, and counts for nothing.
        if volume.view.uid not in cluster.by_hand and not (volume.view.is_backup and volume.view.backup is None)
    }
    while cluster.on_their_way:
        cluster.deliver(0)
    cluster.copies_end()
    cluster.pods_go()
    cluster.reap()
    for kind in cluster.kinds:
        assert f"{kind}-ann" in cluster.volumes or cluster.by_hand
    for name, content in was.items():
        if content:
            assert name in cluster.volumes, f"{name} was taken away by a write that came late"
            assert cluster.volumes[name].content == content, "a write that came late changed what is in a volume"

"""What may happen to a server and its restarts on paper, by name."""

from __future__ import annotations

from .paper_server import PaperServer, Restarter


def happen(server: PaperServer, leaders: dict[str, Restarter], event: str, number: int = 0) -> None:
    """One event; ``number`` picks the request, or the write on its way, that it is about."""
    name = list(server.requests)[number % len(server.requests)]
    match event.split():
        case [("a" | "b") as who, what]:
            leader = leaders[who]
            match what:
                case "request":
                    leader.read_request(name)
                case "turn":
                    leader.turn(name)
                case "rest":
                    leader.read_rest()
                case "send":
                    leader.send()
                case _:
                    leader.send_late()
        case ["arrival"]:
            server.deliver(number)
        case ["operator", _]:
            leaders["a"].crash()
        case ["later"]:
            server.later(3)
        case ["much", _]:
            server.later(45)
        case ["cancel"]:
            server.cancel(name)
        case [("Infeasible" | "Deferred" | "slow" | "willing") as node]:
            server.node = node
        case ["minimum"]:
            server.refuses_down = not server.refuses_down
        case ["quota"]:
            server.is_full = not server.is_full
        case ["all", "refused"]:
            server.refuses_all = not server.refuses_all
        case ["hub"]:
            server.hub_refuses = not server.hub_refuses
        case ["hub", "forgets"]:
            server.hub_forgets = True
        case ["dies", "hard"]:
            server.dies_hard = not server.dies_hard
        case words:
            getattr(server, "_".join(words))()


def go_on(server: PaperServer, seconds: int = 2) -> None:
    """What the cluster does while an operator waits."""
    server.kubelet()
    server.answer()
    server.pods_go()
    server.later(seconds)


def check(server: PaperServer, leader: Restarter) -> None:
    """From here on nothing goes wrong: every request ends, the server is there, and no late write takes it away."""
    server.settle(leader)
    server.judge()
    held = server.pod
    while server.on_their_way:
        server.deliver(0)
    server.kubelet()
    assert server.pod is held, "a write that came late took the server away"
    server.judge()

"""What Prometheus reads: how long requests wait, what steps cost, how old the watches' news is, how it all ends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REGISTRY = CollectorRegistry()
#: Memory, processor time and open files of this process, under their usual names (``process_*``).
ProcessCollector(registry=REGISTRY)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

queue_wait = Histogram(
    "hubsteward_queue_wait_seconds", "From the moment a request is due to the moment it is looked at.",
    buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
step_duration = Histogram(
    "hubsteward_step_duration_seconds", "One step of a plan, from the decision to the answer.",
    ["step"], buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
request_to_action = Histogram(
    "hubsteward_request_to_action_seconds",
    "From the creation of a request that did not have to wait to the first thing done for it. Creation times are whole "
    "seconds, so this one is up to a second too long.",
    ["kind"], buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
finished = Counter(
    "hubsteward_requests_finished", "Requests that have ended.", ["kind", "phase", "reason"], registry=REGISTRY
)
watch_age = Gauge(
    "hubsteward_watch_age_seconds", "Since a watch last delivered, or was last found complete.",
    ["resource"], registry=REGISTRY,
)  # fmt: skip
loop_lag = Gauge("hubsteward_loop_lag_seconds", "How late the event loop last woke up.", registry=REGISTRY)
queue_depth = Gauge("hubsteward_queue_depth", "Requests that are due and not yet looked at.", registry=REGISTRY)
unfinished = Gauge(
    "hubsteward_requests_unfinished", "Requests that have not come to an end, as the watches show them.",
    ["kind"], registry=REGISTRY,
)  # fmt: skip
leading = Gauge("hubsteward_leading", "1 while this operator holds the Lease.", registry=REGISTRY)
backups_deleted = Counter("hubsteward_backups_deleted", "Backups deleted by retention.", registry=REGISTRY)


def exposition() -> bytes:
    return generate_latest(REGISTRY)

"""Structured logs: one JSON object a line, and one audit line per finished request."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("steward")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.name != logger.name:
            entry["logger"] = record.name
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(level.upper())


def log(level: int, message: str, **fields: Any) -> None:
    logger.log(level, message, extra={"fields": fields})


def audit(request: dict[str, Any], *, deleted: bool = False) -> None:
    """The one line that says who had what done to whose server, and how it ended.

    ``deleted`` is a request that was deleted while it was at work; phase and reason are those it had come to.
    """
    spec, status, meta = request.get("spec") or {}, request.get("status") or {}, request["metadata"]
    log(
        logging.INFO,
        "audit",
        audit=True,
        kind=request["kind"],
        name=meta["name"],
        uid=meta["uid"],
        actor=spec.get("requestedBy"),
        owner=spec.get("user"),
        server=spec.get("server", ""),
        volumes=[
            {key: row[key] for key in ("volume", "claim", "uid", "newUID", "outcome") if key in row}
            for row in status.get("volumes") or ()
        ],
        why=spec.get("reason", ""),
        phase=status.get("phase"),
        reason=status.get("reason"),
        mechanism=status.get("mechanism"),
        **({"deleted": True} if deleted else {}),
    )

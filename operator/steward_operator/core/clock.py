"""Times as Kubernetes writes them. Only conversions; nothing here asks what time it is."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time with an offset, or None for nothing. The letters may be lower case (RFC 3339, section 5.6)."""
    return datetime.fromisoformat(text.upper()) if text else None


def format_time(moment: datetime) -> str:
    """Whole seconds, UTC, as metav1.Time is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

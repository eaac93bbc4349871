"""The hub side of Hub Steward. ``wire(c)`` is the last line of a hub's configuration."""

from .wiring import wire

__all__ = ["wire"]

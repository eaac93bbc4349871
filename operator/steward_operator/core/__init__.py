"""Decides what happens next. Pure: no I/O, no clock, no kopf. Called by the engine with a request and a world."""

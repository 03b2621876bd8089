"""A time of day that goes on evenly, whatever is done to the machine's clock."""

from __future__ import annotations

import time

_AHEAD_S = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since 1970 by the clock as it was when this process began, and evenly since then.

    For what has to be compared in another process too, where `time.monotonic` says nothing, and
    must not become hours longer or shorter when somebody sets the clock.
    """
    return _AHEAD_S + time.monotonic()

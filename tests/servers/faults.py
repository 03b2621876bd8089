"""The catalogue of what can be wrong with a reply: how each fault is made, in both protocols."""

from __future__ import annotations

from tests.servers.fault import Fault, Group
from tests.servers.wire_faults import (
    BODIES,
    CONNECTIONS,
    CUTS,
    REFUSALS,
    SLOWNESS,
    STREAMS,
)
from tests.servers.word_faults import ANSWERS, COUNTS, LOGPROBS, REDIRECTS

__all__ = ["CUTS", "FAULTS", "Fault", "Group", "named"]

FAULTS: tuple[Fault, ...] = (
    *REFUSALS,
    *CONNECTIONS,
    *SLOWNESS,
    *BODIES,
    *STREAMS,
    *CUTS,
    *COUNTS,
    *LOGPROBS,
    *ANSWERS,
    *REDIRECTS,
)
"""All faults; `CUTS` among them are the places at which a stream can end too early."""

_BY_NAME = {fault.name: fault for fault in FAULTS}


def named(name: str) -> Fault:
    """The fault of a name.

    Raises:
        KeyError: there is none.
    """
    return _BY_NAME[name]

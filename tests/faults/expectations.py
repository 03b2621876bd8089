"""What has to become of a question when a fault strikes: who answers, and what is known to be paid.

Four ways out cover all faults:

- it does no harm: the answer is used;
- the call has failed, and another tier may do better: the small model's question goes to the large
  one, the large model's place is taken by the draft, and a check that failed leaves no confidence;
- the call has failed, and the set-up is wrong: the user hears of it, unless there is a draft;
- the answer is there, but it does not vouch for itself or is ruled out: the large model is asked.
"""

from __future__ import annotations

import re
from typing import Literal

from tests.faults.cells import WAITS, Cell, Place

Users = dict[Place, str]
Paid = Literal["nothing", "unknown", "counted"]

HARMLESS: Users = {"small": "small", "large": "large", "check": "small"}
PASSED_ON: Users = {"small": "large", "large": "small, degraded", "check": "large"}
UNVOUCHED: Users = {"small": "large", "large": "large", "check": "small"}
RULED_OUT: Users = {"small": "large", "large": "large", "check": "large"}

SET_UP = {
    "status 400": "BadRequestError",
    "status 401": "AuthenticationError",
    "status 403": "AuthenticationError",
    "status 404": "ModelNotFoundError",
    "status 422": "BadRequestError",
}
READ_ALL_THE_SAME = frozenset(
    {
        "reset after",
        "content type",
        "frame twice",
        "frames swapped",
        "never ended",
        "log-probs all zero",
        "another model",
        "several choices",
        "ended after 5 of 7 frames",
        "broken after 5 of 7 frames",
        "broken inside frame 6 of 7",
        "ended after 6 of 7 frames",
        "broken after 6 of 7 frames",
        "broken inside frame 7 of 7",
        "ended after 7 of 7 frames",
        "broken after 7 of 7 frames",
        "ended after 4 of 4 frames",
        "broken after 4 of 4 frames",
    }
)
NO_WORD: Users = {"small": "small", "large": "large", "check": "large"}
STRANGE_TEXTS = frozenset({"half a character", "NUL"})
"""Answers like any other, but none to a check."""

NO_ANSWER = frozenset({"empty answer", "white space", "a megabyte", "arguments of another tool"})
COUNTED_ALL_THE_SAME = frozenset({"busy for ages", "busy negative"})
WITHOUT_USAGE = frozenset(
    {"ended after 5 of 7 frames", "broken after 5 of 7 frames", "broken inside frame 6 of 7"}
)
UNBILLED = re.compile(r"status 4(?!08)|429, |refused|redirect")
LOSES_CONNECTIONS = WAITS | {"refused", "reset after", "Content-Length short"}
"""Here an attempt may fail before the server has seen it."""


def users(cell: Cell) -> str:
    """Who answers, `, degraded` where the large model could not be had, or the error."""
    return _ways(cell)[cell.place]


def _ways(cell: Cell) -> Users:
    fault = cell.fault
    if fault.group == "redirects" or fault.name in SET_UP:
        error = SET_UP.get(fault.name, "ModelNotFoundError")
        return {"small": error, "large": "small, degraded", "check": error}
    if _harmless(cell):
        return HARMLESS
    if fault.group == "log-probs":
        return UNVOUCHED
    if fault.name in STRANGE_TEXTS:
        return NO_WORD
    return RULED_OUT if fault.name in NO_ANSWER else PASSED_ON


def _harmless(cell: Cell) -> bool:
    name = cell.fault.name
    # In a stream the end of the answer comes before the end of the body.
    long = name == "Content-Length long" and cell.form == "stream"
    return name in READ_ALL_THE_SAME or cell.fault.group == "counts" or long


def fails(cell: Cell) -> bool:
    """Whether the last call that met the fault has failed."""
    return _ways(cell) not in (HARMLESS, UNVOUCHED, NO_WORD, RULED_OUT)


def paid(cell: Cell) -> Paid:
    """What is known about the cost of a call that has met the fault."""
    name = cell.fault.name
    if UNBILLED.match(name):
        return "nothing"
    if _ways(cell) == PASSED_ON or name in WITHOUT_USAGE:
        return "unknown"
    uncounted = cell.fault.group == "counts" and name not in COUNTED_ALL_THE_SAME
    return "unknown" if uncounted else "counted"

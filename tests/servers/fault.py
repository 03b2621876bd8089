"""What a fault is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.servers.replies import Reply
from tests.servers.saying import Asked, Form, Protocol, Said

Group = Literal[
    "refusals",
    "connections",
    "slowness",
    "bodies",
    "streams",
    "counts",
    "log-probs",
    "answers",
    "redirects",
]
Make = Callable[[Asked, Said], Reply]

BOTH: tuple[Protocol, ...] = ("openai", "ollama")
ALL_FORMS: tuple[Form, ...] = ("plain", "stream")


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    Attributes:
        name: how tables call it.
        meaning: what happens, in a line.
        group: what kind of thing is wrong.
        make: the reply, from the call and what would have been answered to it.
        protocols: in which it exists.
        forms: whether whole replies can have it, streams, or both.
        listens: False where there is no reply, as nobody listens (`FaultyServer.refusing_url`).
    """

    name: str
    meaning: str
    group: Group
    make: Make
    protocols: tuple[Protocol, ...] = BOTH
    forms: tuple[Form, ...] = ALL_FORMS
    listens: bool = True

    def exists(self, protocol: Protocol, form: Form) -> bool:
        """Whether a call of this kind can meet it."""
        return protocol in self.protocols and form in self.forms

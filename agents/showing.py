"""What the reader of a stream is shown, and when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.config import get_config
from langgraph.runtime import Runtime

from cascade.errors import ConfigurationError
from cascade.events import Retracted, Token
from cascade.state import Completion

STREAM_TOKENS = "stream_tokens"
"""Key of `config["configurable"]`: True streams what is decided, False nothing, and `OPTIMISTIC`
also drafts, before anything is decided about them."""

OPTIMISTIC = "optimistic"

_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")

DETAILS = "answer_details"
"""Key of `config["configurable"]`: True puts into `response_metadata` of the answer what is no part
of its text: `logprobs` of its tokens and `thinking`, where its tier told them."""

Show = Literal["verified", "optimistic", "final"]
"""`verified`: tokens come after the decision. `optimistic`: drafts are shown at once and withdrawn
where they are rejected. `final`: nothing but the result."""


def showing(show: Show, config: RunnableConfig | None) -> RunnableConfig:
    """A run's configuration, with what its reader wants to see.

    Raises:
        ConfigurationError: there is no such way.
    """
    ways = {"verified": True, "optimistic": OPTIMISTIC, "final": False}
    if show not in ways:
        raise ConfigurationError(f"show={show!r}: give one of {', '.join(ways)}.")
    given = config or {}
    configurable = {STREAM_TOKENS: ways[show], **given.get("configurable", {})}
    return RunnableConfig(**{**given, "configurable": configurable})


def shown() -> Any:
    """What this run streams; None where its configuration does not say."""
    return get_config().get("configurable", {}).get(STREAM_TOKENS)


def shows_answers() -> bool:
    """Whether answers that are there as a whole are told: also where nobody asked for a stream."""
    return shown() is not False


class Telling:
    """Tells the reader of a stream the answer of a larger tier, which stands unless it breaks off.

    Args:
        runtime: of the node that asks.
        tier: whose answer it is.
    """

    def __init__(self, runtime: Runtime[Any], tier: str) -> None:
        self._write, self._tier = runtime.stream_writer, tier
        self._told = False
        self.on_text = self._hear if shown() else None

    def _hear(self, text: str) -> None:
        self._told = True
        self._write(Token(text, self._tier))

    def broke_off(self, error: Exception) -> None:
        """There is no answer: what was told of it is withdrawn."""
        if self._told:
            self._write(Retracted(f"{self._tier} broke off: {error}"))
            self._told = False

    def answered(self, text: str) -> None:
        """It is there as a whole; who has not heard it is told now."""
        if text and self.on_text is None and shows_answers():
            self._write(Token(text, self._tier))


def details(completion: Completion) -> dict[str, Any]:
    """What the message of an answer has besides, where its run wants that."""
    if not wants_details():
        return {}
    return {"logprobs": completion.logprobs, "thinking": completion.thinking}


def wants_details() -> bool:
    """Whether the message of this run's answer has what is no part of its text."""
    config = var_child_runnable_config.get() or {}
    return bool(config.get("configurable", {}).get(DETAILS))


def shows_drafts() -> bool:
    """Whether this run shows drafts before they are judged."""
    return bool(shown() == OPTIMISTIC)


def words(text: str) -> Sequence[str]:
    """An answer that is there as a whole, word by word, with all its white space."""
    found: list[str] = _WORDS.findall(text)
    return found

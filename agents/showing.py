"""What the reader of a stream is shown, and when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config

from cascade.errors import ConfigurationError

STREAM_TOKENS = "stream_tokens"
"""Key of `config["configurable"]`: True streams what is decided, False nothing, and `OPTIMISTIC`
also drafts, before anything is decided about them."""

OPTIMISTIC = "optimistic"

_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")

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


def shown(otherwise: bool = False) -> Any:
    """What this run streams; `otherwise` where its configuration does not say."""
    return get_config().get("configurable", {}).get(STREAM_TOKENS, otherwise)


def shows_drafts() -> bool:
    """Whether this run shows drafts before they are judged."""
    return bool(shown() == OPTIMISTIC)


def words(text: str) -> Sequence[str]:
    """An answer that is there as a whole, word by word, with all its white space."""
    found: list[str] = _WORDS.findall(text)
    return found

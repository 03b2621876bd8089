"""Whether a conversation holds what is personal: rules for `Cascade(private=…)`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.ledger.store.redaction import SECRETS

NOT_PERSONAL = frozenset({"DATE_TIME", "UUID", "URL"})
"""What Presidio finds and `presidio` leaves out unless asked for: dates and links are in half of
all questions, and say nothing about anybody."""

THRESHOLD = 0.4
"""Presidio gives telephone numbers 0.4, and 0.05 to bare numbers that could be those of passports
or accounts, which most numbers could."""

_READABLE = frozenset({"reasoning", "thinking", "tool_call", "tool_use"})
"""Blocks of a message that hold text under other names."""


class Analyzer(Protocol):
    """What is asked of Presidio's `AnalyzerEngine`."""

    def analyze(
        self, text: str, language: str, *, entities: list[str], score_threshold: float
    ) -> Sequence[object]:
        """What was found in a text with this score or more."""
        ...

    def get_supported_entities(self, language: str) -> Sequence[str]:
        """The names of what it can find."""
        ...


def looks_personal(messages: Sequence[BaseMessage]) -> bool:
    """Whether there is an e-mail address, a key, or a telephone, card or account number in it.

    It reads the whole conversation, tool calls too: all of it goes to the model. What is no text,
    such as an image, counts as personal, since it cannot be read here. Names and addresses are not
    recognised: `presidio` with a language model finds them.

    Args:
        messages: the conversation.
    """
    return any(text is None or SECRETS.search(text) is not None for text in _texts(messages))


def presidio(
    *,
    entities: Sequence[str] | None = None,
    threshold: float = THRESHOLD,
    language: str = "en",
    analyzer: Analyzer | None = None,
) -> Callable[[Sequence[BaseMessage]], Awaitable[bool]]:
    """A rule that asks Microsoft Presidio: `Cascade(private=presidio())`.

    Without an analyzer of yours it works by patterns and check digits alone: e-mail addresses,
    telephone, card, IBAN, social security, tax and health numbers, addresses of machines. No model
    is downloaded for it. For names and places give an `AnalyzerEngine()` with a language model.

    It reads what `looks_personal` reads, and like it takes for personal what it cannot read. Texts
    are analysed in a thread, so that other questions go on meanwhile.

    Args:
        entities: names of what is personal, such as `["PERSON", "IBAN_CODE"]`; None for all that
            the analyzer knows but `NOT_PERSONAL`.
        threshold: score in [0, 1] from which on a finding counts.
        language: of the conversations, as Presidio names it.
        analyzer: an `AnalyzerEngine` of yours.

    Raises:
        ConfigurationError: the analyzer cannot find something that was named, or nothing in
            this language; or the threshold is no score.
        MissingDependencyError: Presidio is not installed.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ConfigurationError(f"presidio(threshold={threshold}): a score is between 0 and 1.")
    engine = _by_patterns(language) if analyzer is None else analyzer
    known = set(engine.get_supported_entities(language))
    wanted = sorted(known - NOT_PERSONAL if entities is None else set(entities))
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigurationError(
            f"presidio(entities={entities!r}, language={language!r}): this analyzer does not find "
            f"{', '.join(unknown) or 'anything of that'}. It knows: "
            f"{', '.join(sorted(known)) or 'nothing'}. Names and places (PERSON, LOCATION) need "
            "analyzer=AnalyzerEngine() with a language model."
        )

    def found_in(text: str) -> bool:
        return bool(engine.analyze(text, language, entities=wanted, score_threshold=threshold))

    def finds(texts: Sequence[str | None]) -> bool:
        return any(text is None or (text.strip() != "" and found_in(text)) for text in texts)

    async def private(messages: Sequence[BaseMessage]) -> bool:
        return await asyncio.to_thread(finds, _texts(messages))

    return private


def _by_patterns(language: str) -> Analyzer:
    """Presidio without a language model, which it would have to download."""
    try:
        analyzers = import_module("presidio_analyzer")  # an extra: its types may not be there
        engines = import_module("presidio_analyzer.nlp_engine")
    except ImportError as error:
        raise MissingDependencyError(
            'presidio() needs Presidio: pip install "agent-cascade[pii]".'
        ) from error
    engine: Analyzer = analyzers.AnalyzerEngine(
        registry=analyzers.RecognizerRegistry(supported_languages=[language]),
        nlp_engine=engines.NoOpNlpEngine([{"lang_code": language, "model_name": ""}]),
        supported_languages=[language],
    )
    return engine


def _texts(messages: Sequence[BaseMessage]) -> list[str | None]:
    """All that a model would read of a conversation; None for what is no text."""
    texts: list[str | None] = []
    for message in messages:
        blocks = [message.content] if isinstance(message.content, str) else message.content
        texts += [_text(block) for block in blocks]
        if isinstance(message, AIMessage):
            texts += [json.dumps(call["args"], default=str) for call in message.tool_calls]
    return texts


def _text(block: str | dict[str, Any]) -> str | None:
    """The text of a block; None where it has none."""
    if isinstance(block, str):
        return block
    if block.get("type") in _READABLE:
        return json.dumps(block, default=str)
    text = block.get("text")
    return text if isinstance(text, str) else None

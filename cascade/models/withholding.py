"""What an error of a provider may repeat: not the key that it was sent, and not the question.

Errors travel further than answers: into logs, ledgers, traces, and to whoever asked. Providers
repeat in theirs the key that they refuse and the text that they do not like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from langchain_core.messages import BaseMessage

from cascade._masking import mask_keys, mask_quotes
from cascade._printable import printable
from cascade.errors import ModelError

__all__ = ["withhold"]

MOST_CAUSES = 20
"""Errors behind an error that are looked at."""


def withhold(error: ModelError, messages: Sequence[BaseMessage], secrets: Iterable[str]) -> None:
    """Take keys, and what is quoted of the question, out of an error and those that caused it."""
    asked, kept = [text for message in messages for text in _texts(message)], tuple(secrets)
    for cause in _chain(error):
        cause.args = tuple(
            _cleaned(value, asked, kept) if isinstance(value, str) else value
            for value in cause.args
        )
        for name in ("message", "error", "body", "reason"):  # where SDKs keep it, too
            value = getattr(cause, name, None)
            if isinstance(value, str):
                _set(cause, name, _cleaned(value, asked, kept))


def _cleaned(text: str, asked: Sequence[str], secrets: Sequence[str]) -> str:
    return printable(mask_keys(mask_quotes(text, asked), secrets), keep="\n\t")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(seen) < MOST_CAUSES:
        found = waiting.pop()
        if found is None or any(found is other for other in seen):
            continue
        seen.append(found)
        yield found
        waiting += [found.__cause__, found.__context__]


def _set(error: BaseException, name: str, value: str) -> None:
    try:
        setattr(error, name, value)
    except AttributeError:  # a property of an SDK, made of what was cleaned already
        return


def _texts(message: BaseMessage) -> Iterator[str]:
    content = message.content
    if isinstance(content, str):
        yield content
        return
    for part in content:
        if isinstance(part, str):
            yield part
        elif isinstance(text := part.get("text"), str):
            yield text

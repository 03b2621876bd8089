"""Texts that can be sent: what models write is not always made of whole characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages

from cascade.errors import InputError


def whole(text: str) -> str:
    """The text with halves of surrogate pairs put together, and U+FFFD for one that is alone.

    Such a half comes of an emoji that was cut in two. No server gets it in UTF-8, and one in a
    conversation would make every later step of it fail.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def sendable(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, of whole characters.

    Raises:
        InputError: there is something in them that this form has no place for.
    """
    try:
        sent: list[dict[str, Any]] = _whole(convert_to_openai_messages(list(messages)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"the conversation has a part that no model can be sent: {error}. Give text, "
            "images, audio and files as LangChain's content blocks, tool calls in answers alone."
        ) from error
    return sent


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value

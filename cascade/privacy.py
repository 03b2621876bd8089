"""Whether a conversation holds what is personal: a rule for `Cascade(private=…)`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from cascade.ledger.store.redaction import SECRETS

_READABLE = frozenset({"reasoning", "thinking", "tool_call", "tool_use"})
"""Blocks of a message that hold text under other names."""


def looks_personal(messages: Sequence[BaseMessage]) -> bool:
    """Whether there is an e-mail address, a key, or a telephone, card or account number in it.

    It reads the whole conversation, tool calls too: all of it goes to the model. What is no text,
    such as an image, counts as personal, since it cannot be read here. Names and addresses are not
    recognised: docs/privacy.md shows how to ask a detector for them.

    Args:
        messages: the conversation.
    """
    return any(_is_personal(message) for message in messages)


def _is_personal(message: BaseMessage) -> bool:
    blocks = [message.content] if isinstance(message.content, str) else message.content
    texts = [_text(block) for block in blocks]
    if isinstance(message, AIMessage):
        texts += [json.dumps(call["args"], default=str) for call in message.tool_calls]
    return any(text is None or SECRETS.search(text) is not None for text in texts)


def _text(block: str | dict[str, Any]) -> str | None:
    """The text of a block; None where it has none."""
    if isinstance(block, str):
        return block
    if block.get("type") in _READABLE:
        return json.dumps(block, default=str)
    text = block.get("text")
    return text if isinstance(text, str) else None

"""Prompt caches of providers, as far as they can be known from what was sent.

A conversation that goes to one model finds its earlier turns in that model's cache, at a fraction
of the price. In a cascade the large model sees only some of the turns, so its real cache is often
cold. A baseline that leaves that out claims savings that are none.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; for guesses where nothing was counted."""

OTHER_BLOCK = 4_000
"""Characters that an image or a file counts for: about a thousand tokens."""

TTL_S, MINIMUM, STEP = 300.0, 1024, 128
"""OpenAI's rules: exact prefixes of 1,024 tokens and more, in steps of 128, kept for 5 to 10
minutes after their last use. Anthropic's ask for as much, and keep it for 5."""

_WHEN_ASKED = re.compile("claude|anthropic", re.IGNORECASE)
"""Models whose provider caches only what the prompt marks for it."""

Prefixes = Sequence[tuple[bytes, int]]
"""(hash, characters) of each beginning of a prompt, the whole prompt last."""


def characters(messages: Sequence[BaseMessage]) -> int:
    """Length of a prompt: its text, its tool calls, and a lump for each other block."""
    size = 0
    for message in messages:
        content = message.content
        size += len(content) if isinstance(content, str) else sum(map(_of_block, content))
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                size += len(call["name"]) + len(json.dumps(call["args"], default=str))
    return size


def _of_block(block: object) -> int:
    text = block.get("text") if isinstance(block, Mapping) else block
    return len(text) if isinstance(text, str) else OTHER_BLOCK


def prefixes_of(messages: Sequence[BaseMessage]) -> Prefixes:
    """The beginnings of a prompt. Ids and metadata of messages make no difference."""
    found = []
    key, size = b"", 0
    for message in messages:
        plain: list[object] = [message.type, message.content]
        if isinstance(message, AIMessage):
            plain.append([[call["name"], call["args"]] for call in message.tool_calls])
        if isinstance(message, ToolMessage):
            plain.append(message.name)
        text = json.dumps(plain, sort_keys=True, default=repr)
        key = hashlib.sha256(key + text.encode()).digest()[:16]
        size += characters([message])
        found.append((key, size))
    return found


def can_be_cached(model: str, messages: Sequence[BaseMessage], tokens: int) -> bool:
    """True if a provider keeps anything of a prompt of so many tokens."""
    # A token is a character at least, as good as always.
    if tokens < MINIMUM or characters(messages) < MINIMUM:
        return False
    return _WHEN_ASKED.search(model) is None or any(
        isinstance(block, Mapping) and "cache_control" in block
        for message in messages
        if isinstance(message.content, list)
        for block in message.content
    )


def in_steps(share: float, tokens: int) -> int:
    """Tokens of a share of a prompt that a provider caches."""
    found = int(share * tokens) // STEP * STEP
    return found if found >= MINIMUM else 0


class PromptCache:
    """The beginnings of prompts that a model was sent lately, the last 50,000 of them."""

    def __init__(self, *, most: int = 50_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._kept: OrderedDict[bytes, float] = OrderedDict()
        self._lock = Lock()

    def share(self, prefixes: Prefixes) -> float:
        """Share of a prompt whose beginning is kept."""
        with self._lock:
            oldest = self._clock() - TTL_S
            while self._kept and next(iter(self._kept.values())) <= oldest:
                self._kept.popitem(last=False)
            warm = [size for key, size in prefixes if key in self._kept]
        return max(warm, default=0) / max(1, prefixes[-1][1])

    def keep(self, prefixes: Prefixes) -> None:
        """Remember a prompt that is sent now."""
        with self._lock:
            for key, _ in prefixes:
                self._kept[key] = self._clock()
                self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

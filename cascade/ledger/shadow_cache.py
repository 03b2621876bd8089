"""What the provider's prompt cache would hold if the large model alone answered everything.

A conversation that goes to one model finds its earlier turns in that model's cache, at a fraction
of the price. In a cascade the large model sees only some of the turns, so its real cache is often
cold. A baseline that leaves that out claims savings that are none.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage

from cascade.errors import ConfigurationError
from cascade.ledger.texts import texts_of

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; only the proportions of a prompt's parts and assumptions rest on it."""

OTHER_BLOCK = 4_000
"""Characters that an image or a file counts for: about a thousand tokens."""

CLOCK_SLACK_S = 5.0
"""Clocks of two machines differ by no more; what was sent later than that is no memory."""

QUESTIONS = 10_000
"""Questions whose finding is remembered, for audits of them that come later."""


def characters(messages: Sequence[BaseMessage]) -> int:
    """Roughly how long a prompt is: its text, its tool calls, and a lump for each other block."""
    return sum(_characters(message) for message in messages)


@dataclass(frozen=True, slots=True)
class _Found:
    """Shares of a prompt whose beginning is in use: by the large model alone, and really."""

    alone: float
    really: float


class ShadowCache:
    """Remembers the beginnings of prompts that the large model alone would have been sent.

    The rules are OpenAI's (Prompt Caching 201: exact prefixes of 1,024 tokens and more, in steps
    of 128, kept for 5 to 10 minutes without use); Anthropic's ask for as much and keep it for 5.
    Where the provider charges for writing its cache, the large model alone is taken to pay the
    plain price for that, so that no saving is claimed on it.

    It is kept in memory, for one process: after a restart it is cold for as long as `ttl_s`.

    Args:
        ttl_s: seconds that a prefix is kept after its last use.
        minimum: shortest prefix in tokens that a provider caches.
        step: prefixes are cached in steps of so many tokens.
        most: prefixes remembered at once; the least recently used go first.
        clock: seconds, for tests.

    Raises:
        ConfigurationError: a limit is not positive.
    """

    def __init__(
        self,
        *,
        ttl_s: float = 300.0,
        minimum: int = 1024,
        step: int = 128,
        most: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in {
            "ttl_s": ttl_s,
            "minimum": minimum,
            "step": step,
            "most": most,
        }.items():
            if value <= 0:
                raise ConfigurationError(f"ShadowCache({name}={value}): must be above 0.")
        self._ttl_s, self._minimum, self._step, self._most = ttl_s, minimum, step, most
        self._clock = clock
        self._used: OrderedDict[bytes, float] = OrderedDict()
        self._sent: OrderedDict[bytes, float] = OrderedDict()
        self._found: OrderedDict[tuple[str, bytes], _Found] = OrderedDict()
        self._lock = Lock()

    def cached(self, messages: Sequence[BaseMessage], tokens: int) -> int:
        """Tokens of a prompt that would have come from the cache; the prompt is remembered.

        A question is looked up once: asked again about the same message (its id), as the same run
        does and its audit, the answer is the same.

        Args:
            messages: the prompt, its last message being the question.
            tokens: of the whole prompt. A prefix has its share of them by its characters, so that
                the tokens of two models are never mixed.
        """
        if self._is_short(messages, tokens):
            return 0
        prefixes = _prefixes(messages)
        with self._lock:
            found = self._find(messages[-1].id, prefixes)
        return self._in_steps(found.alone, tokens)

    def missed(self, messages: Sequence[BaseMessage], tokens: int) -> int:
        """`cached`, for a prompt that the large model was really sent; 0 where it was sent as
        long a beginning before, since then its real usage says what the provider found.

        Args:
            messages: the prompt, its last message being the question.
            tokens: of the whole prompt.
        """
        if self._is_short(messages, tokens):
            return 0
        prefixes = _prefixes(messages)
        with self._lock:
            found = self._find(messages[-1].id, prefixes)
            self._remember(self._sent, prefixes, self._clock())
        return self._in_steps(found.alone, tokens) if found.alone > found.really else 0

    def holds(self, age_s: float) -> bool:
        """Whether a prefix that was last used so long ago is still kept."""
        return -CLOCK_SLACK_S <= age_s < self._ttl_s

    def of_prefix(
        self, messages: Sequence[BaseMessage], first: int, tokens: int
    ) -> tuple[int, int]:
        """Tokens of a prompt that come from the cache when its first messages are kept there, and
        those that can be kept there at all.

        Args:
            messages: the prompt.
            first: so many of its messages were sent before.
            tokens: of the whole prompt; the prefix has its share of them by its characters.
        """
        if tokens < self._minimum or (whole := characters(messages)) < self._minimum:
            return 0, 0
        share = characters(messages[:first]) / whole
        return self._in_steps(share, tokens), self._in_steps(1.0, tokens)

    def _is_short(self, messages: Sequence[BaseMessage], tokens: int) -> bool:
        # A token is a character at least, as good as always.
        return tokens < self._minimum or characters(messages) < self._minimum

    def _in_steps(self, share: float, tokens: int) -> int:
        found = int(share * tokens) // self._step * self._step
        return found if found >= self._minimum else 0

    def _find(self, question_id: str | None, prefixes: Sequence[tuple[bytes, int]]) -> _Found:
        whole, size = prefixes[-1]
        question = (question_id or "", whole)
        known = self._found.get(question)
        if known is not None:
            return known
        now = self._clock()
        shares = []
        for prompts in (self._used, self._sent):
            self._forget(prompts, now)
            warm = [length for key, length in prefixes if key in prompts]
            shares.append(max(warm, default=0) / size)
        self._remember(self._used, prefixes, now)
        found = _Found(*shares)
        if question_id:
            self._found[question] = found
            if len(self._found) > QUESTIONS:
                self._found.popitem(last=False)
        return found

    def _forget(self, prompts: OrderedDict[bytes, float], now: float) -> None:
        while prompts and next(iter(prompts.values())) < now - self._ttl_s:
            prompts.popitem(last=False)

    def _remember(
        self,
        prompts: OrderedDict[bytes, float],
        prefixes: Sequence[tuple[bytes, int]],
        now: float,
    ) -> None:
        for key, _ in prefixes:
            prompts[key] = now
            prompts.move_to_end(key)
        while len(prompts) > self._most:
            prompts.popitem(last=False)


def _prefixes(messages: Sequence[BaseMessage]) -> list[tuple[bytes, int]]:
    """(hash, characters) of each beginning of a prompt, the whole prompt last."""
    found = []
    key, size = b"", 0
    for message in messages:
        text = texts_of((message,)).prompt
        key = hashlib.sha256(key + text.encode("utf-8", "surrogatepass")).digest()[:16]
        size += _characters(message)
        found.append((key, size))
    return found


def asks_for_caching(messages: Sequence[BaseMessage]) -> bool:
    """Whether a prompt marks what to cache, as Anthropic's models want it (`cache_control`)."""
    return any(
        isinstance(block, Mapping) and "cache_control" in block
        for message in messages
        if isinstance(message.content, list)
        for block in message.content
    )


def _characters(message: BaseMessage) -> int:
    content = message.content
    size = len(content) if isinstance(content, str) else sum(map(_of_block, content))
    if isinstance(message, AIMessage):
        size += sum(len(call["name"]) + _json_length(call["args"]) for call in message.tool_calls)
    return size


def _of_block(block: object) -> int:
    if isinstance(block, str):
        return len(block)
    text = block.get("text") if isinstance(block, Mapping) else None
    return len(text) if isinstance(text, str) else OTHER_BLOCK


def _json_length(value: object) -> int:
    return len(json.dumps(value, default=str))

"""Expected costs: of larger tiers for a drafted question, and of the large model alone, which would
find earlier turns of a conversation in its provider's prompt cache."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from threading import Lock
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from cascade.ledger.prices import Pricing
from cascade.state import Completion, Usage

CHARACTERS_PER_TOKEN, OTHER_BLOCK = 4, 4_000
"""Of English text, roughly; characters that an image or a file counts for, a thousand tokens."""

TTL_S, MINIMUM, STEP = 300.0, 1024, 128
"""OpenAI's rules: exact prefixes of 1,024 tokens and more, in steps of 128, kept for 5 to 10
minutes after their last use. Anthropic's ask for as much, and keep it for 5."""

KEPT, REFIT_EVERY, BEGINNINGS = 2_000, 100, 50_000
"""Audits from whose lengths is learned; those between two fits, at first 1, 2, 4, …; and beginnings
of prompts that are remembered of a cache."""

WORDY_FACTOR, WORDY_TOKENS = 8.0, 200.0
"""Until enough is known the large model writes at most so many times the expected or the draft's
visible tokens and so many more: at least 98 % of the answers of ten recorded pairs of models."""


@dataclass(frozen=True, slots=True)
class PricedTier:
    """A tier as the ledger sees it; its `model` has a `name` and a `server`."""

    name: str
    model: Any
    pricing: Pricing
    max_tokens: int | None


class Outlook:
    """Costs that a cascade expects of its tiers, which come from small to large. Thread-safe."""

    def __init__(
        self, tiers: Sequence[PricedTier], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tiers, self.lengths = tuple(tiers), Lengths()
        self._alone, self._really = PromptCache(clock), PromptCache(clock)
        self._answers: deque[tuple[int, int, float]] = deque(maxlen=KEPT)
        self._learned, self._lock = 0, Lock()

    def cost(
        self, tier: PricedTier, completion: Completion, messages: Sequence[BaseMessage] = ()
    ) -> Decimal | None:
        """Dollars that a tier would probably cost after a draft; None where usage or price is
        unknown. What the large model was sent of the conversation before is read from its cache,
        the rest written to it."""
        usage, large = completion.usage, tier.name == self.tiers[-1].name
        tokens, cached, written = usage.input_tokens or 0, 0, 0
        if prefixes := prefixes_of(tier.model.name, messages, tokens):
            cached = self._really.cached(prefixes, tokens) if large else 0
            written = in_steps(1.0, tokens) - cached
        return next(_costs(tier, self.lengths if large else Lengths(), usage, cached, written))

    def earned(
        self, completion: Completion, cost_usd: Decimal | None, messages: Sequence[BaseMessage]
    ) -> dict[str, Any]:
        """Fields of the entry of a node that cost so much and accepted a draft: what the large
        model alone would have cost, with a 95 % range of this question. It is an estimate, since
        that model was not asked; what middleware added to the prompt does not count."""
        usage = completion.asked_usage
        cached, _ = self._cached(usage, messages)
        usd, least, most = _costs(self.tiers[-1], self.lengths, usage, cached)
        if usd is None or least is None or most is None:
            return {"baseline_usd": None, "saved_usd": None, "basis": "unknown"}
        return {
            "baseline_usd": usd,
            "baseline_range": (min(usd, least), max(usd, most)),
            "saved_usd": None if cost_usd is None else usd - cost_usd,
            "basis": "unknown" if cost_usd is None else "estimated",
        }

    def measured(
        self, usage: Usage, messages: Sequence[BaseMessage], busy_ms: float | None = None
    ) -> Decimal | None:
        """Dollars that the large model alone costs for a request that it was really asked: its real
        usage, but with as much of the prompt cached as there would have been, had it answered the
        turns too that it was not asked."""
        alone, prefixes = self._cached(usage, messages)
        really = self._really.cached(prefixes, usage.input_tokens or 0, keep=True)
        if alone > really:  # else its usage says what the provider found
            cached = max(alone, usage.cached_tokens or 0)
            usage = usage.model_copy(update={"cached_tokens": cached})
        return self.tiers[-1].pricing.cost(usage, busy_ms)

    def learn(self, draft: int, large: int, weight: float) -> None:
        """Learn from an audit: visible tokens of draft and large answer, 1/P(it was audited)."""
        with self._lock:
            self._answers.append((draft, large, weight))
            self._learned = n = self._learned + 1
            if n % REFIT_EVERY == 0 or (n < REFIT_EVERY and n.bit_count() == 1):
                self.lengths = fit_lengths(self._answers)

    def _cached(self, usage: Usage, messages: Sequence[BaseMessage]) -> tuple[int, Prefixes]:
        """Tokens of a prompt that the large model alone would have found in its cache, the same for
        a run and for its audit, which ask about the same message; and the prompt's beginnings."""
        tokens = usage.input_tokens or 0
        prefixes = prefixes_of(self.tiers[-1].model.name, messages, tokens)
        question = (messages[-1].id or "") if messages else ""
        return self._alone.cached(prefixes, tokens, question=question, keep=True), prefixes


def _costs(
    tier: PricedTier, lengths: Lengths, usage: Usage, cached: int, written: int = 0
) -> Iterator[Decimal | None]:
    """Dollars of a tier's answer to a prompt that was drafted, and the ends of their range."""
    draft, read = visible(usage), usage.input_tokens
    more = {"input_tokens": read, "cached_tokens": cached, "cache_write_tokens": written}
    for output in (None,) * 3 if draft is None else lengths.predict(draft, tier.max_tokens):
        yield tier.pricing.cost(Usage(output_tokens=output, **more))


def visible(usage: Usage) -> int | None:
    """Output tokens without reasoning: what a reader sees of an answer."""
    written, hidden = usage.output_tokens, usage.reasoning_tokens or 0
    return None if written is None else max(0, written - hidden)


# --- lengths of the large model's answers


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the large model's answers: log(large) = start + slope · log(draft).

    `smear` is the mean of exp(residual), which makes the mean log a mean (Duan 1983); `factors` are
    the 2.5 and 97.5 % of true ÷ predicted lengths, None before enough is learned.
    """

    start: float = 0.0
    slope: float = 1.0
    smear: float = 1.0
    factors: tuple[float, float] | None = None

    def predict(self, draft: int, cap: int | None = None) -> tuple[int, int, int]:
        """Expected output tokens, with the ends of their 95 % range."""
        log = self.start + self.slope * math.log(max(1, draft))
        expected = math.exp(min(20.0, log)) * self.smear
        low, high = 0.0, WORDY_FACTOR * max(expected, draft) + WORDY_TOKENS
        if self.factors is not None:
            low, high = expected * self.factors[0], expected * self.factors[1]
        # exp(log(100)) is a little more than 100.
        found = round(expected), math.floor(low + 1e-9), math.ceil(high - 1e-9)
        usual, least, most = (n if cap is None else min(cap, n) for n in found)
        return usual, least, most


def fit_lengths(audits: Sequence[tuple[int, int, float]]) -> Lengths:
    """Weighted ridge regression of the log length. From 39 audits on, the range is weighted
    split-conformal prediction (arXiv 1904.06019) on their leave-one-out residuals."""
    n, total = len(audits), math.fsum(weight for *_, weight in audits)
    weights = [weight / total for *_, weight in audits]
    drafts = [math.log(max(1, draft)) for draft, *_ in audits]
    # The prior, which counts for two, is an answer as long as the draft: how it differs is fitted.
    more = [math.log(max(1, audit[1])) - x for audit, x in zip(audits, drafts, strict=True)]
    draft, rest = fmean(drafts, weights), fmean(more, weights)
    apart = [(w, x - draft, y - rest) for w, x, y in zip(weights, drafts, more, strict=True)]
    spread = 2.0 + n * math.fsum(w * x * x for w, x, _ in apart)
    slope = n * math.fsum(w * x * y for w, x, y in apart) / spread
    # Leave-one-out: each residual over 1 less its leverage.
    ratios = sorted(
        (math.exp((y - slope * x) / max(0.05, 1 - w - n * w * x * x / spread)), w)
        for w, x, y in apart
    )
    smear = math.fsum(w * ratio for ratio, w in ratios)
    low, high = _reached(ratios[::-1]), _reached(ratios)
    factors = None if low is None or high is None else (low / smear, high / smear)
    return Lengths(rest - slope * draft, 1.0 + slope, smear, factors)


def _reached(ranked: Sequence[tuple[float, float]]) -> float | None:
    """The ratio at which 97.5 % of the mass is reached, which is 1 and that of the new draft: the
    largest seen."""
    whole, mass = 1.0 + max(weight for _, weight in ranked), 0.0
    for ratio, weight in ranked:
        mass += weight
        if mass / whole >= 0.975 - 1e-12:
            return ratio
    return None


# --- prompt caches of providers, as far as they can be known from what was sent

Prefixes = Sequence[tuple[bytes, int]]
"""(hash, characters) of each beginning of a prompt, the whole prompt last."""


class PromptCache:
    """The beginnings of prompts that a model was sent lately, and the questions that left them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, Lock()
        self._kept: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def cached(
        self, prefixes: Prefixes, tokens: int, *, question: str = "", keep: bool = False
    ) -> int:
        """Tokens of a prompt whose beginning is kept, but for what its question (by id) has left
        itself, which may be looked up twice; `keep` it, since it is sent now."""
        warm, now = 0, self._clock()
        with self._lock:
            for key, size in prefixes:
                at, by = self._kept.get(key, (-math.inf, ""))
                alive = at > now - TTL_S
                if alive and not (by and by == question):
                    warm = size
                if keep:
                    self._kept[key] = now, by if alive else question
                    self._kept.move_to_end(key)
            while len(self._kept) > BEGINNINGS:
                self._kept.popitem(last=False)
        return in_steps(warm / prefixes[-1][1], tokens) if prefixes else 0


def prefixes_of(model: str, messages: Sequence[BaseMessage], tokens: int) -> Prefixes:
    """The beginnings of a prompt of so many tokens, where a provider keeps any of it. Ids and
    metadata of messages make no difference."""
    # A token is a character at least, as good as always.
    sizes = [characters([message]) for message in messages] if tokens >= MINIMUM else []
    if sum(sizes) < MINIMUM:
        return ()
    blocks = [block for m in messages if isinstance(m.content, list) for block in m.content]
    marked = any(isinstance(block, Mapping) and "cache_control" in block for block in blocks)
    if re.search("claude|anthropic", model.lower()) and not marked:
        return ()  # what their provider is asked to cache is marked
    found, key, size = [], b"", 0
    for message, more in zip(messages, sizes, strict=True):
        plain = [message.type, message.name, message.content, _calls(message)]
        text = json.dumps(plain, sort_keys=True, default=repr)
        key = hashlib.sha256(key + text.encode()).digest()[:16]
        size += more
        found.append((key, size))
    return found


def in_steps(share: float, tokens: int) -> int:
    """Tokens of a share of a prompt that a provider caches."""
    found = int(share * tokens) // STEP * STEP
    return found if found >= MINIMUM else 0


def characters(messages: Sequence[BaseMessage]) -> int:
    """Length of a prompt: its text, its tool calls, and `OTHER_BLOCK` for each other block."""
    size = 0
    for message in messages:
        content = message.content
        blocks = [content] if isinstance(content, str) else content
        texts = [block.get("text") if isinstance(block, Mapping) else block for block in blocks]
        size += sum(len(text) if isinstance(text, str) else OTHER_BLOCK for text in texts)
        size += sum(len(n) + len(json.dumps(args, default=str)) for n, args in _calls(message))
    return size


def _calls(message: BaseMessage) -> list[tuple[str, Any]]:
    made = message.tool_calls if isinstance(message, AIMessage) else []
    return [(call["name"], call["args"]) for call in made]

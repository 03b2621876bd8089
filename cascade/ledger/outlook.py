"""Expected costs: of larger tiers for a drafted question, and of the large model alone, which would
find earlier turns of a conversation in its provider's prompt cache."""

from __future__ import annotations

import hashlib
import json
import math
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

KEPT, REFIT_EVERY, BEGINNINGS = 2_000, 100, 100_000
"""Audits from whose lengths is learned; those between two fits, at first 1, 2, 4, …; and beginnings
of prompts that are remembered."""

Prefixes = list[tuple[bytes, int]]

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

    clock: Callable[[], float] = time.monotonic

    def __init__(self, tiers: Sequence[PricedTier]) -> None:
        self.tiers, self.lengths = tuple(tiers), Lengths()
        self._answers: deque[tuple[int, int, float]] = deque(maxlen=KEPT)
        self._sent: OrderedDict[tuple[bool, bytes], tuple[float, str]] = OrderedDict()
        self._learned, self._lock = 0, Lock()

    def cost(
        self, tier: PricedTier, completion: Completion, messages: Sequence[BaseMessage] = ()
    ) -> Decimal | None:
        """Dollars that a tier would probably cost after a draft; None where usage or price is
        unknown. What the large model was sent of the conversation before is read from its cache,
        the rest written to it."""
        usage, large = completion.usage, tier.name == self.tiers[-1].name
        prefixes = prefixes_of(tier, messages, usage)
        cached = self._cached(prefixes, keep=False) if large else 0
        written = prefixes[-1][1] - cached if prefixes else 0
        return next(_costs(tier, self.lengths if large else Lengths(), usage, cached, written))

    def earned(
        self, completion: Completion, cost_usd: Decimal | None, messages: Sequence[BaseMessage]
    ) -> dict[str, Any]:
        """Fields of the entry of a node that cost so much and accepted a draft: what the large
        model alone would have cost, with a 95 % range of this question. It is an estimate, since
        that model was not asked; what middleware added to the prompt does not count."""
        usage, large = completion.asked_usage, self.tiers[-1]
        cached = self._cached(prefixes_of(large, messages, usage), messages)
        usd, least, most = _costs(large, self.lengths, usage, cached)
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
        large = self.tiers[-1]
        prefixes = prefixes_of(large, messages, usage)
        alone, really = self._cached(prefixes, messages), self._cached(prefixes)
        if alone > really:  # else its usage says what the provider found
            cached = max(alone, usage.cached_tokens or 0)
            usage = usage.model_copy(update={"cached_tokens": cached})
        return large.pricing.cost(usage, busy_ms)

    def learn(self, draft: int, large: int, weight: float) -> None:
        """Learn from an audit: visible tokens of draft and large answer, 1/P(it was audited)."""
        with self._lock:
            self._answers.append((draft, large, weight))
            self._learned = n = self._learned + 1
            if n % REFIT_EVERY == 0 or (n < REFIT_EVERY and n.bit_count() == 1):
                self.lengths = fit_lengths(self._answers)

    def _cached(
        self, prefixes: Prefixes, alone: Sequence[BaseMessage] = (), *, keep: bool = True
    ) -> int:
        """Tokens of a prompt that the large model finds in its provider's cache or, asked `alone`
        about these messages, would find, but for what the same question has left there: a run and
        its audit, which ask about one message, are told the same."""
        question, warm, now = (alone[-1].id or "") if alone else "", 0, self.clock()
        with self._lock:
            for key, tokens in prefixes:
                at, by = self._sent.get((bool(alone), key), (-math.inf, ""))
                alive = at > now - TTL_S
                if alive and not (by and by == question):
                    warm = tokens
                if keep:
                    self._sent[bool(alone), key] = now, by if alive else question
                    self._sent.move_to_end((bool(alone), key))
            while len(self._sent) > BEGINNINGS:
                self._sent.popitem(last=False)
        return warm


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


def prefixes_of(tier: PricedTier, messages: Sequence[BaseMessage], usage: Usage) -> Prefixes:
    """The hash of each beginning of a prompt, the whole prompt last, with its tokens that the
    provider of a tier caches, if any. Ids and metadata of messages make no difference."""
    # A token is a character at least, as good as always.
    tokens = usage.input_tokens or 0
    sizes = [characters([message]) for message in messages] if tokens >= MINIMUM else []
    if (whole := sum(sizes)) < MINIMUM:
        return []
    blocks = [block for m in messages if isinstance(m.content, list) for block in m.content]
    marked = any(isinstance(block, Mapping) and "cache_control" in block for block in blocks)
    if not marked and any(name in tier.model.name.lower() for name in ("claude", "anthropic")):
        return []  # what their provider is asked to cache is marked
    found, key, size = [], b"", 0
    for message, more in zip(messages, sizes, strict=True):
        plain = [message.type, message.name, message.content, _calls(message)]
        text = json.dumps(plain, sort_keys=True, default=repr)
        key, size = hashlib.sha256(key + text.encode()).digest()[:16], size + more
        cached = int(size / whole * tokens) // STEP * STEP
        found.append((key, cached if cached >= MINIMUM else 0))
    return found


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

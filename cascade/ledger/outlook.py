"""Expected costs: of larger tiers for a drafted question, and of the large model alone.

Everything here is pure Python: it runs with every request.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from statistics import fmean
from threading import Lock
from typing import Any, NamedTuple, Protocol

from langchain_core.messages import BaseMessage

from cascade.ledger.prices import Pricing
from cascade.ledger.prompt_cache import (
    MINIMUM,
    PromptCache,
    can_be_cached,
    in_steps,
    prefixes_of,
)
from cascade.state import Completion, Usage

KEPT, REFIT_EVERY = 2_000, 100
"""Audits from whose lengths is learned, and those between two fits, which come after 1, 2, 4, 8, …
of them at first."""

LEAST_AUDITS = 39
"""Fewer audits give no two-sided 95 % interval per request: 2/(n + 1) > 0.05."""

WORDY_FACTOR, WORDY_TOKENS = 8.0, 200.0
"""Until so many are there the large model writes at most so many times the expected or the draft's
visible tokens and so many more: at least 98 % of the answers of ten recorded pairs of models."""

REACHED = 0.975 - 1e-12

PRIOR = 2.0
"""Answers that the prior (as long as the draft) counts for in the slope."""

QUESTIONS = 10_000
"""Questions whose share in the prompt cache is remembered, for audits that come later."""


class Tier(Protocol):
    """A tier as the ledger sees it: `cascade.tiers.OpenTier`."""

    @property
    def name(self) -> str:
        """Name in results and in the ledger."""
        ...

    @property
    def model(self) -> Any:
        """The model that is asked, with `name` and `server`."""
        ...

    @property
    def pricing(self) -> Pricing:
        """Price of its calls."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Limit of output tokens per answer."""
        ...


class Baseline(NamedTuple):
    """Dollars of the large model alone for one question, with a 95 % range of this question."""

    usd: Decimal
    low_usd: Decimal
    high_usd: Decimal


class Audited(NamedTuple):
    """Tokens of one audited answer, for learning: visible ones of the draft, those of the large
    model's answer; and 1/P(this draft was audited)."""

    draft: int
    large: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the large model's answers: log(large) = start + slope · log(draft).

    Attributes:
        smear: mean of exp(residual), which turns the mean log into a mean (Duan 1983).
        factors: 2.5 % and 97.5 % of the true length ÷ the predicted one; None before enough is
            learned.
        audits: that it was fitted on.
    """

    start: float = 0.0
    slope: float = 1.0
    smear: float = 1.0
    factors: tuple[float, float] | None = None
    audits: int = 0

    def predict(self, draft: int, cap: int | None = None) -> tuple[float, float, float]:
        """Expected output tokens, with the ends of their 95 % range."""
        expected = _exp(self.start + self.slope * math.log(max(1, draft))) * self.smear
        low, high = 0.0, WORDY_FACTOR * max(expected, draft) + WORDY_TOKENS
        if self.factors is not None:
            low, high = expected * self.factors[0], expected * self.factors[1]
        most = math.inf if cap is None else cap
        return min(most, expected), min(most, low), min(most, high)


def fit_lengths(answers: Sequence[Audited]) -> Lengths:
    """Weighted ridge regression of the log length. From 39 audits on, the range is weighted
    split-conformal prediction (arXiv 1904.06019) on their leave-one-out residuals."""
    n, total = len(answers), math.fsum(answer.weight for answer in answers)
    if not answers:
        return Lengths()
    weights = [answer.weight / total for answer in answers]
    drafts = [math.log(max(1, answer.draft)) for answer in answers]
    # The prior is an answer as long as the draft: what is fitted is how it differs.
    more = [math.log(max(1, a.large)) - x for a, x in zip(answers, drafts, strict=True)]
    draft, rest = fmean(drafts, weights), fmean(more, weights)
    apart = [(w, x - draft, y - rest) for w, x, y in zip(weights, drafts, more, strict=True)]
    spread = PRIOR + n * math.fsum(w * x * x for w, x, _ in apart)
    slope = n * math.fsum(w * x * y for w, x, y in apart) / spread
    # Leave-one-out: each residual over 1 less its leverage.
    residuals = [
        ((y - slope * x) / max(0.05, 1 - w - n * w * x * x / spread), w) for w, x, y in apart
    ]
    smear = math.fsum(w * _exp(residual) for residual, w in residuals)
    factors = None
    if n >= LEAST_AUDITS:
        residuals.sort()
        low, high = _reached(residuals[::-1]), _reached(residuals)
        factors = None if low is None or high is None else (low / smear, high / smear)
    return Lengths(rest - slope * draft, 1.0 + slope, smear, factors, n)


def _reached(ranked: Sequence[tuple[float, float]]) -> float | None:
    """The ratio at which 97.5 % of the mass is reached, which is 1 and that of the new draft: the
    largest seen."""
    whole = 1.0 + max(weight for _, weight in ranked)
    masses = accumulate(weight for _, weight in ranked)
    reached = (r for (r, _), mass in zip(ranked, masses, strict=True) if mass / whole >= REACHED)
    found = next(reached, None)
    return None if found is None else _exp(found)


def _exp(log: float) -> float:
    return math.exp(min(20.0, log))


class Outlook:
    """Costs that a cascade expects of its tiers, which come from small to large. Thread-safe."""

    def __init__(self, tiers: Sequence[Tier], clock: Callable[[], float] = time.monotonic) -> None:
        self.tiers = tuple(tiers)
        self.lengths = Lengths()
        self._alone, self._really = PromptCache(clock=clock), PromptCache(clock=clock)
        self._found: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._answers: deque[Audited] = deque(maxlen=KEPT)
        self._learned = 0
        self._lock = Lock()

    def cost(
        self, tier: Tier, completion: Completion, messages: Sequence[BaseMessage] = ()
    ) -> Decimal | None:
        """Dollars that a tier would probably cost after a draft; None where usage or price is
        unknown. What the large model was sent of the conversation before is read from its cache,
        the rest written to it."""
        usage, draft = completion.usage, visible(completion.usage)
        tokens, cached, written = usage.input_tokens, 0, 0
        if tokens is None or draft is None:
            return None
        large = tier.name == self.tiers[-1].name
        if tokens >= MINIMUM and can_be_cached(tier.model.name, messages, tokens):
            if large:
                cached = in_steps(self._really.share(prefixes_of(messages)), tokens)
            written = in_steps(1.0, tokens) - cached
        lengths = self.lengths if large else Lengths()
        output = round(lengths.predict(draft, tier.max_tokens)[0])
        return tier.pricing.cost(_usage(tokens, output, cached, written))

    def baseline(self, completion: Completion, messages: Sequence[BaseMessage]) -> Baseline | None:
        """Cost of the large model alone for a drafted question, with a range; None
        where the draft's usage or the price is unknown. What middleware added to the prompt does
        not count."""
        large, usage = self.tiers[-1], completion.asked_usage
        tokens, draft = usage.input_tokens, visible(usage)
        if tokens is None or draft is None:
            return None
        cached = in_steps(self._alone_share(messages, tokens), tokens)
        expected, low, high = self.lengths.predict(draft, large.max_tokens)
        # exp(log(100)) is a little more than 100
        outputs = round(expected), math.floor(low + 1e-9), math.ceil(high - 1e-9)
        usd, least, most = (large.pricing.cost(_usage(tokens, n, cached)) for n in outputs)
        if usd is None or least is None or most is None:
            return None
        return Baseline(usd, min(usd, least), max(usd, most))

    def earned(
        self, completion: Completion, cost_usd: Decimal | None, messages: Sequence[BaseMessage]
    ) -> dict[str, Any]:
        """Fields of the entry of a node that cost so much and accepted a draft. The large model's
        cost is spared; it is an estimate, since that model was not asked."""
        baseline = self.baseline(completion, messages)
        if baseline is None:
            return {"baseline_usd": None, "saved_usd": None, "basis": "unknown"}
        return {
            "baseline_usd": baseline.usd,
            "baseline_range": (baseline.low_usd, baseline.high_usd),
            "saved_usd": None if cost_usd is None else baseline.usd - cost_usd,
            "basis": "unknown" if cost_usd is None else "estimated",
        }

    def measured(
        self, usage: Usage, messages: Sequence[BaseMessage], busy_ms: float | None = None
    ) -> Decimal | None:
        """Dollars that the large model alone costs for a request that it was really asked: its real
        usage, but with as much of the prompt cached as there would have been, had it answered the
        turns too that it was not asked."""
        large, tokens = self.tiers[-1], usage.input_tokens or 0
        if tokens >= MINIMUM and can_be_cached(large.model.name, messages, tokens):
            share, prefixes = self._alone_share(messages, tokens), prefixes_of(messages)
            # Where it was sent as long a beginning, its usage says what the provider found.
            cached = in_steps(share, tokens) if share > self._really.share(prefixes) else 0
            self._really.keep(prefixes)
            if cached > (usage.cached_tokens or 0):
                usage = usage.model_copy(update={"cached_tokens": cached})
        return large.pricing.cost(usage, busy_ms)

    def learn(self, answer: Audited) -> None:
        """Learn from an audit how long the large model's answers are."""
        with self._lock:
            self._answers.append(answer)
            self._learned += 1
            n = self._learned
            if n % REFIT_EVERY == 0 or (n < REFIT_EVERY and n & (n - 1) == 0):
                self.lengths = fit_lengths(self._answers)

    def _alone_share(self, messages: Sequence[BaseMessage], tokens: int) -> float:
        """Share of a prompt that the large model alone would have found in its cache; the same for
        a run and for its audit, which ask about the same message."""
        if not can_be_cached(self.tiers[-1].model.name, messages, tokens):
            return 0.0
        prefixes = prefixes_of(messages)
        question = (messages[-1].id or "", prefixes[-1][0])
        with self._lock:
            share = self._found.get(question)
            if share is None:
                share = self._alone.share(prefixes)
                self._alone.keep(prefixes)
                if question[0]:
                    self._found[question] = share
                    if len(self._found) > QUESTIONS:
                        self._found.popitem(last=False)
        return share


def visible(usage: Usage) -> int | None:
    """Output tokens without reasoning: what a reader sees of an answer."""
    if usage.output_tokens is None:
        return None
    return max(0, usage.output_tokens - (usage.reasoning_tokens or 0))


def _usage(tokens: int, output: int, cached: int, written: int = 0) -> Usage:
    return Usage(
        input_tokens=tokens,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )

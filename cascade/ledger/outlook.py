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

KEPT = 2_000
"""Lengths are learned from the last so many audits."""

REFIT_EVERY = 100
"""Audits between two fits; the first fits come after 1, 2, 4, 8, … of them."""

LEAST_AUDITS = 39
"""Fewer audits give no two-sided 95 % interval per request: 2/(n + 1) > 0.05."""

LEAST_ANSWERS = 8
"""Fewer answers of the large model say nothing of their spread."""

WORDY_FACTOR, WORDY_TOKENS = 8.0, 200.0
"""Before anything is learned the large model writes at most so many times the draft's visible
tokens and so many more: at least 98 % of the answers of ten recorded pairs of models, whose
lengths differ by a factor of 140 where a short draft is answered at length."""

PRIOR = 2.0
"""Answers that the prior (as long as the draft) counts for in each slope."""

QUESTIONS = 10_000
"""Questions whose share in the prompt cache is remembered, for audits that come later."""


class Tier(Protocol):
    """What is known of a tier here: `cascade.tiers.OpenTier`."""

    @property
    def name(self) -> str:
        """How results and the ledger call it."""
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


class Answer(NamedTuple):
    """Tokens of one audited answer, for learning: of the question, visible ones of the draft, of
    the large model's answer; and 1/P(this draft was audited)."""

    prompt: int
    draft: int
    large: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the large model's answers: log(large) = a + b·log(draft) + c·log(prompt).

    Attributes:
        coefficients: (a, b, c).
        smear: mean of exp(residual), which turns the mean log into a mean (Duan 1983).
        factors: 2.5 % and 97.5 % of the true length ÷ the predicted one; None before enough is
            learned.
        audits: that it was fitted on.
    """

    coefficients: tuple[float, float, float] = (0.0, 1.0, 0.0)
    smear: float = 1.0
    factors: tuple[float, float] | None = None
    audits: int = 0

    def predict(self, prompt: int, draft: int, cap: int | None = None) -> tuple[float, ...]:
        """Expected output tokens, with the ends of their 95 % range."""
        a, b, c = self.coefficients
        logs = a + b * math.log(max(1, draft)) + c * math.log(max(1, prompt))
        expected = math.exp(min(20.0, logs)) * self.smear
        low, high = 0.0, WORDY_FACTOR * max(expected, draft) + WORDY_TOKENS
        if self.factors is not None:
            learned = expected * self.factors[1]
            low = expected * self.factors[0]
            high = learned if self.audits >= LEAST_AUDITS else min(high, learned)
        most = math.inf if cap is None else cap
        return min(most, expected), min(most, low), min(most, high)


def fit_lengths(answers: Sequence[Answer]) -> Lengths:
    """Weighted ridge regression of the log length. From 39 audits on, the range is weighted
    split-conformal prediction (arXiv 1904.06019) on their leave-one-out residuals; before, that of
    a normal distribution."""
    if not answers:
        return Lengths()
    n = len(answers)
    logs = [[math.log(max(1, tokens)) for tokens in answer[:3]] for answer in answers]
    total = math.fsum(answer.weight for answer in answers)
    weights = [answer.weight / total for answer in answers]
    # The prior's slopes are 1 on the draft and 0 on the prompt; `rest` is what the first leaves.
    rows = [(draft, prompt, large - draft) for prompt, draft, large in logs]
    pairs = list(zip(weights, rows, strict=True))
    means = [math.fsum(w * row[i] for w, row in pairs) for i in range(3)]
    centred = [[x - mean for x, mean in zip(row, means, strict=True)] for row in rows]
    dd, dp, pp, dr, pr = PRIOR, 0.0, PRIOR, 0.0, 0.0
    for w, (d, p, r) in zip(weights, centred, strict=True):
        dd, dp, pp = dd + n * w * d * d, dp + n * w * d * p, pp + n * w * p * p
        dr, pr = dr + n * w * d * r, pr + n * w * p * r
    determinant = dd * pp - dp * dp
    on_draft, on_prompt = (pp * dr - dp * pr) / determinant, (dd * pr - dp * dr) / determinant
    left_out = []
    for w, (d, p, r) in zip(weights, centred, strict=True):
        leverage = w + n * w * (pp * d * d - 2 * dp * d * p + dd * p * p) / determinant
        residual = (r - on_draft * d - on_prompt * p) / max(0.05, 1 - leverage)
        left_out.append((residual, w))
    smear = math.fsum(w * math.exp(min(20.0, residual)) for residual, w in left_out)
    start = means[2] - means[0] * on_draft - means[1] * on_prompt
    return Lengths((start, 1.0 + on_draft, on_prompt), smear, _factors(left_out, smear), n)


def _factors(left_out: Sequence[tuple[float, float]], smear: float) -> tuple[float, float] | None:
    """The range of true ÷ predicted length, of (residual, weight) with weights that sum to 1."""
    n = len(left_out)
    if n >= LEAST_AUDITS:
        held = sorted(left_out)
        # The new draft's own weight is taken to be the largest seen.
        whole = 1.0 + max(weight for _, weight in held)
        low, high = _reached(held[::-1], whole), _reached(held, whole)
        return None if low is None or high is None else (low / smear, high / smear)
    if n < LEAST_ANSWERS:
        return None
    free = n - 3
    variance = math.fsum(w * e * e for e, w in left_out) * n / free
    # Student's t at 97.5 %, to 1 %; lengths have heavier tails, which few answers do not show.
    t = 1.96 + 2.4 / free + 2.8 / free**2
    width = t * math.sqrt(variance * (1 + 1 / n)) * (1 + 5 / n)
    return math.exp(-width) / smear, math.exp(min(20.0, width)) / smear


def _reached(ranked: Sequence[tuple[float, float]], whole: float) -> float | None:
    """The ratio at which 97.5 % of the mass is reached."""
    mass = 0.0
    for residual, weight in ranked:
        mass += weight
        if mass / whole >= 0.975 - 1e-12:
            return math.exp(min(20.0, residual))
    return None


class Outlook:
    """Costs that a cascade expects of its tiers, which come from small to large. Thread-safe."""

    def __init__(self, tiers: Sequence[Tier], clock: Callable[[], float] = time.monotonic) -> None:
        self.tiers = tuple(tiers)
        self.lengths = Lengths()
        self._alone, self._really = PromptCache(clock=clock), PromptCache(clock=clock)
        self._found: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._answers: deque[Answer] = deque(maxlen=KEPT)
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
        if tokens >= MINIMUM and messages and can_be_cached(tier.model.name, messages, tokens):
            if tier.name == self.tiers[-1].name:
                cached = in_steps(self._really.share(prefixes_of(messages)), tokens)
            written = in_steps(1.0, tokens) - cached
        lengths = self.lengths if tier.name == self.tiers[-1].name else Lengths()
        output = round(lengths.predict(tokens, draft, tier.max_tokens)[0])
        return tier.pricing.cost(_usage(tokens, output, cached, written))

    def baseline(self, completion: Completion, messages: Sequence[BaseMessage]) -> Baseline | None:
        """What the large model alone would have cost for a drafted question, with a range; None
        where the draft's usage or the price is unknown. What middleware added to the prompt does
        not count."""
        large, usage = self.tiers[-1], completion.asked_usage
        tokens, draft = usage.input_tokens, visible(usage)
        if tokens is None or draft is None:
            return None
        cached = in_steps(self._alone_share(messages, tokens), tokens)
        expected, low, high = self.lengths.predict(tokens, draft, large.max_tokens)
        # exp(log(100)) is a little more than 100
        outputs = round(expected), math.floor(low + 1e-9), math.ceil(high - 1e-9)
        costs = [large.pricing.cost(_usage(tokens, output, cached)) for output in outputs]
        usd, least, most = costs
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
        if tokens >= MINIMUM and messages and can_be_cached(large.model.name, messages, tokens):
            share, prefixes = self._alone_share(messages, tokens), prefixes_of(messages)
            # Where it was sent as long a beginning, its usage says what the provider found.
            cached = in_steps(share, tokens) if share > self._really.share(prefixes) else 0
            self._really.keep(prefixes)
            if cached > (usage.cached_tokens or 0):
                usage = usage.model_copy(update={"cached_tokens": cached})
        return large.pricing.cost(usage, busy_ms)

    def learn(
        self, prompt_tokens: int, draft_tokens: int, large_tokens: int, weight: float = 1.0
    ) -> None:
        """Learn from an audit how long the large model's answers are; see `Answer`."""
        with self._lock:
            self._answers.append(Answer(prompt_tokens, draft_tokens, large_tokens, weight))
            self._learned += 1
            n = self._learned
            if n % REFIT_EVERY == 0 or (n < REFIT_EVERY and n & (n - 1) == 0):
                self.lengths = fit_lengths(self._answers)

    def _alone_share(self, messages: Sequence[BaseMessage], tokens: int) -> float:
        """Share of a prompt that the large model alone would have found in its cache; the same for
        a run and for its audit, which ask about the same message."""
        if tokens < MINIMUM or not messages:
            return 0.0
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

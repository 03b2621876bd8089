"""Expected costs: of larger tiers for a drafted question, and of the large model alone.

Everything here is pure Python: it runs with every request.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock
from typing import Any, NamedTuple, Protocol

from langchain_core.messages import BaseMessage

from cascade.ledger.prices import Pricing
from cascade.ledger.prompt_cache import (
    CHARACTERS_PER_TOKEN,
    Prefixes,
    PromptCache,
    can_be_cached,
    characters,
    in_steps,
    prefixes_of,
)
from cascade.state import Basis, Completion, Record, Usage

KEPT = 2_000
"""Lengths are learned from the last so many answers of the large model."""

REFIT_EVERY = 100
"""Answers between two fits; the first fits come after 1, 2, 4, 8, … answers."""

LEAST_AUDITS = 39
"""Fewer audits give no two-sided 95 % interval per request: 2/(n + 1) > 0.05."""

LEAST_ANSWERS = 8
"""Fewer answers of the large model say nothing of their spread."""

WORDY_FACTOR, WORDY_TOKENS = 8.0, 200.0
"""Before anything is learned the large model writes at most so many times the draft's visible
tokens and so many more: at least 98 % of the answers of ten recorded pairs of models, whose
lengths differ by a factor of 140 where a short draft is answered at length."""

ESCALATED = 0.25
"""Weight of an escalated question beside an audit: it is harder and longer than an accepted one."""

PRIOR = 2.0
"""Answers that the prior (as long as the draft) counts for in each slope."""

QUESTIONS = 10_000
"""Questions whose share in the prompt cache is remembered, for audits that come later."""


class TierModel(Protocol):
    """What is known of a tier's model here."""

    @property
    def name(self) -> str:
        """`provider:name`."""
        ...


class Tier(Protocol):
    """What is known of a tier here: `cascade.tiers.OpenTier`."""

    @property
    def name(self) -> str:
        """How results and the ledger call it."""
        ...

    @property
    def model(self) -> TierModel:
        """The model that is asked."""
        ...

    @property
    def pricing(self) -> Pricing:
        """Price of its calls."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Limit of output tokens per answer."""
        ...


class Baseline(Record):
    """Dollars of the large model alone for one question, with a 95 % range of this question."""

    usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    output_tokens: int
    basis: Basis = "estimated"
    note: str = ""


class Answer(NamedTuple):
    """Tokens of one answer of the large model, for learning.

    Attributes:
        prompt: tokens of the question.
        draft: visible output tokens of the draft.
        large: output tokens of the large model.
        weight: 1/P(this answer was seen).
        audit: whether the draft was drawn at random among the accepted ones.
    """

    prompt: int
    draft: int
    large: int
    weight: float = 1.0
    audit: bool = True


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the large model's answers: log(large) = a + b·log(draft) + c·log(prompt).

    Attributes:
        coefficients: (a, b, c).
        smear: mean of exp(residual), which turns the mean log into a mean (Duan 1983).
        factors: 2.5 % and 97.5 % of the true length ÷ the predicted one; None before enough is
            learned.
        audits, escalated: answers that it was fitted on.
    """

    coefficients: tuple[float, float, float] = (0.0, 1.0, 0.0)
    smear: float = 1.0
    factors: tuple[float, float] | None = None
    audits: int = 0
    escalated: int = 0

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

    @property
    def note(self) -> str:
        """What the lengths rest on, in words."""
        if not self.audits and not self.escalated:
            return "estimated from the draft's length, nothing learned yet"
        if not self.audits:
            return f"learned from {self.escalated} escalations, which tend to be longer"
        return "" if self.audits >= LEAST_AUDITS else f"learned from {self.audits} audits"


def fit_lengths(answers: Sequence[Answer]) -> Lengths:
    """Weighted ridge regression of the log length.

    From 39 audits on, the range is weighted split-conformal prediction (arXiv 1904.06019) on their
    leave-one-out residuals; before, that of a normal distribution of the log length.
    """
    audits = sum(answer.audit for answer in answers)
    counts = {"audits": audits, "escalated": len(answers) - audits}
    rows = [_Row.of(answer) for answer in answers]
    if not rows:
        return Lengths()
    total = math.fsum(row.weight for row in rows)
    draft = math.fsum(row.weight * row.draft for row in rows) / total
    prompt = math.fsum(row.weight * row.prompt for row in rows) / total
    rest = math.fsum(row.weight * row.rest for row in rows) / total
    scale = len(rows) / total
    # The prior's slopes are 1 on the draft and 0 on the prompt; `rest` is what the first leaves.
    dd, dp, pp, dr, pr = PRIOR, 0.0, PRIOR, 0.0, 0.0
    for row in rows:
        u, d, p = scale * row.weight, row.draft - draft, row.prompt - prompt
        dd, dp, pp = dd + u * d * d, dp + u * d * p, pp + u * p * p
        dr, pr = dr + u * d * (row.rest - rest), pr + u * p * (row.rest - rest)
    determinant = dd * pp - dp * dp
    on_draft, on_prompt = (pp * dr - dp * pr) / determinant, (dd * pr - dp * dr) / determinant
    left_out = []
    for row in rows:
        u, d, p = scale * row.weight, row.draft - draft, row.prompt - prompt
        leverage = u * (1 / len(rows) + (pp * d * d - 2 * dp * d * p + dd * p * p) / determinant)
        residual = row.rest - rest - on_draft * d - on_prompt * p
        left_out.append((residual / max(0.05, 1 - leverage), row))
    smear = math.fsum(row.weight * math.exp(min(20.0, e)) for e, row in left_out) / total
    return Lengths(
        (rest - draft * on_draft - prompt * on_prompt, 1.0 + on_draft, on_prompt),
        smear,
        _factors(left_out, smear, audits),
        **counts,
    )


class _Row(NamedTuple):
    draft: float
    prompt: float
    rest: float
    weight: float
    audit: bool

    @classmethod
    def of(cls, answer: Answer) -> _Row:
        draft, large = math.log(max(1, answer.draft)), math.log(max(1, answer.large))
        weight = answer.weight * (1.0 if answer.audit else ESCALATED)
        return cls(draft, math.log(max(1, answer.prompt)), large - draft, weight, answer.audit)


def _factors(
    left_out: Sequence[tuple[float, _Row]], smear: float, audits: int
) -> tuple[float, float] | None:
    """The range of true ÷ predicted length."""
    if audits >= LEAST_AUDITS:
        held = sorted((residual, row.weight) for residual, row in left_out if row.audit)
        # The new draft's own weight is taken to be the largest seen.
        whole = math.fsum(weight for _, weight in held) + max(weight for _, weight in held)
        low, high = _reached(held[::-1], whole), _reached(held, whole)
        return None if low is None or high is None else (low / smear, high / smear)
    n = len(left_out)
    if n < LEAST_ANSWERS:
        return None
    free = n - 3
    total = math.fsum(row.weight for _, row in left_out)
    variance = math.fsum(row.weight * e * e for e, row in left_out) / total * n / free
    # Student's t at 97.5 %, to 1 %; lengths have heavier tails, which few answers do not show.
    t = 1.96 + 2.4 / free + 2.8 / free**2
    width = t * math.sqrt(variance * (1 + 1 / n)) * (1 + 5 / n)
    # From escalations alone: accepted questions are shorter, nobody knows by how much.
    shorter = 1.0 if audits else 0.5
    return math.exp(-width) * shorter / smear, math.exp(min(20.0, width)) / smear


def _reached(ranked: Sequence[tuple[float, float]], whole: float) -> float | None:
    """The ratio at which 97.5 % of the mass is reached."""
    mass = 0.0
    for residual, weight in ranked:
        mass += weight
        if mass / whole >= 0.975 - 1e-12:
            return math.exp(min(20.0, residual))
    return None


@dataclass(slots=True)
class Outlook:
    """Costs that a cascade expects; it learns from the large model's answers. Thread-safe.

    Attributes:
        tiers: from small to large.
        lengths: of the last tier's answers; before anything is learned, as long as the draft.
        clock: seconds, for tests.
    """

    tiers: Sequence[Tier]
    lengths: Lengths = field(default_factory=Lengths)
    clock: Callable[[], float] = time.monotonic
    _alone: PromptCache = field(init=False, repr=False)
    _really: PromptCache = field(init=False, repr=False)
    _found: OrderedDict[tuple[str, bytes], float] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _answers: deque[Answer] = field(
        default_factory=lambda: deque(maxlen=KEPT), init=False, repr=False
    )
    _learned: int = field(default=0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.tiers = tuple(self.tiers)
        self._alone = PromptCache(clock=self.clock)
        self._really = PromptCache(clock=self.clock)

    def cost(
        self, tier: Tier, completion: Completion, messages: Sequence[BaseMessage] = ()
    ) -> Decimal | None:
        """Dollars that a tier would probably cost; None where usage or price is unknown.

        Args:
            tier: that would be asked.
            completion: the draft of the question.
            messages: the conversation, its last message being the question. What the large model
                was sent of it before is read at the price of `cached_input`, the rest written at
                `cache_write`, where these have a price.
        """
        tokens, cached, written = completion.usage.input_tokens, 0, 0
        if messages and tokens and can_be_cached(tier.model.name, messages, tokens):
            if tier.name == self.tiers[-1].name:
                cached = in_steps(self._really.share(prefixes_of(messages)), tokens)
            written = in_steps(1.0, tokens) - cached
        used = self._used(tier, completion, completion.usage, cached, written)
        return None if used is None else tier.pricing.cost(used[0])

    def baseline(self, completion: Completion, messages: Sequence[BaseMessage]) -> Baseline | None:
        """What the large model alone would have cost for a drafted question, with a range.

        None where the draft's usage or the price is unknown. The prompt counts without what
        middleware added to it.

        Args:
            completion: the accepted draft.
            messages: the conversation, its last message being the question.
        """
        large, usage = self.tiers[-1], completion.asked_usage
        cached = in_steps(*self._alone_share(messages, usage.input_tokens))
        lengths = self._used(large, completion, usage, cached, 0)
        if lengths is None:
            return None
        costs = [large.pricing.cost(used) for used in lengths]
        usd, low, high = costs
        if usd is None or low is None or high is None:
            return None
        return Baseline(
            usd=usd,
            low_usd=min(usd, low),
            high_usd=max(usd, high),
            output_tokens=lengths[0].output_tokens or 0,
            note=self.lengths.note,
        )

    def earned(
        self, completion: Completion, cost_usd: Decimal | None, messages: Sequence[BaseMessage]
    ) -> dict[str, Any]:
        """Fields of the entry of a node that cost so much and accepted a draft.

        The large model's cost is spared; it is an estimate, since that model was not asked. A draft
        from a cache of answers spares nothing: the large model alone would have had its answer
        there too.
        """
        if completion.cached:
            return {}
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
        """Dollars that the large model alone costs for a request that it was really asked.

        That is its real usage, but with as much of the prompt cached as there would have been,
        had it answered the turns too that it was not asked.

        Args:
            usage: of the large model.
            messages: the conversation, its last message being the question.
            busy_ms: time of its machine, where its price is by the hour.
        """
        share, tokens = self._alone_share(messages, usage.input_tokens)
        if messages and can_be_cached(self.tiers[-1].model.name, messages, tokens):
            prefixes = prefixes_of(messages)
            # Where it was sent as long a beginning, its usage says what the provider found.
            cached = in_steps(share, tokens) if share > self._really.share(prefixes) else 0
            self._really.keep(prefixes)
            if cached > (usage.cached_tokens or 0):
                usage = usage.model_copy(update={"cached_tokens": cached})
        return self.tiers[-1].pricing.cost(usage, busy_ms)

    def asked(self, messages: Sequence[BaseMessage]) -> None:
        """Note that the large model alone would have been asked this, whoever answers it here."""
        self._alone_share(messages, None)

    def learn(
        self,
        prompt_tokens: int,
        draft_tokens: int,
        large_tokens: int,
        weight: float = 1.0,
        *,
        audit: bool = True,
    ) -> None:
        """Learn how long the large model's answers are.

        Args:
            prompt_tokens: of the question.
            draft_tokens: visible output tokens of the draft, see `visible`.
            large_tokens: output tokens of the large model, with its reasoning.
            weight: of an audit 1/P(this draft was audited), of an escalation 1/P(it was escalated).
            audit: whether the draft was drawn at random among those accepted. Escalated questions
                are harder and longer; they count for a quarter.
        """
        with self._lock:
            answer = Answer(prompt_tokens, draft_tokens, large_tokens, weight, audit)
            self._answers.append(answer)
            self._learned += 1
            n = self._learned
            if n % REFIT_EVERY == 0 or (n < REFIT_EVERY and n & (n - 1) == 0):
                self.lengths = fit_lengths(self._answers)

    def _used(
        self, tier: Tier, completion: Completion, usage: Usage, cached: int, written: int
    ) -> list[Usage] | None:
        """What a tier would use for a drafted question: expected, at least and at most."""
        draft = visible(completion.usage)
        if usage.input_tokens is None or draft is None:
            return None
        lengths = self.lengths if tier.name == self.tiers[-1].name else Lengths()
        expected, low, high = lengths.predict(usage.input_tokens, draft, tier.max_tokens)
        # exp(log(100)) is a little more than 100
        return [
            Usage(
                input_tokens=usage.input_tokens,
                cached_tokens=cached,
                cache_write_tokens=written,
                output_tokens=tokens,
            )
            for tokens in (round(expected), math.floor(low + 1e-9), math.ceil(high - 1e-9))
        ]

    def _alone_share(
        self, messages: Sequence[BaseMessage], counted: int | None
    ) -> tuple[float, int]:
        """Share of a prompt that the large model alone would have found in its cache, and tokens.

        A question is looked up once: asked again about the same message, as the same run does and
        its audit, the answer is the same.
        """
        tokens = _tokens(messages, counted)
        if not messages or not can_be_cached(self.tiers[-1].model.name, messages, tokens):
            return 0.0, tokens
        prefixes: Prefixes = prefixes_of(messages)
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
        return share, tokens


def visible(usage: Usage) -> int | None:
    """Output tokens without reasoning: what a reader sees of an answer."""
    if usage.output_tokens is None:
        return None
    return max(0, usage.output_tokens - (usage.reasoning_tokens or 0))


def _tokens(messages: Sequence[BaseMessage], counted: int | None) -> int:
    return characters(messages) // CHARACTERS_PER_TOKEN if counted is None else counted

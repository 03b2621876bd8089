"""The options of audits, and the auditor that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Literal

from langgraph.types import RetryPolicy

from cascade._background import Background
from cascade.agents import Task
from cascade.agents.audit_rates import Allocation, AuditRates, Budget, SpendStore
from cascade.agents.auditor import Auditor
from cascade.agents.base import Caller
from cascade.agents.outlook import Outlook
from cascade.errors import ConfigurationError
from cascade.graph import pause_s
from cascade.ledger import Dollars, Recorder
from cascade.oversight.comparisons import UserCompare, comparison
from cascade.oversight.judging import BlindJudge
from cascade.resilience import Doors
from cascade.state import Usage
from cascade.tiers import ModelLike, OpenTier, open_tier

Comparing = Literal["auto", "exact", "numeric", "schema", "judge"]
"""How a draft is compared with the large model's answer; `auto` chooses by the answers."""

COMPARING = ("auto", "exact", "numeric", "schema", "judge")


@dataclass(frozen=True, slots=True)
class Audits:
    """How many accepted drafts are audited, and how.

    Args:
        rate: share of accepted drafts, on average; in (0, 1].
        floor: least chance of each where it is `optimal`, above 0: a draft that could never be
            audited would be missing in every figure. A rate that the budget has lowered below it
            is its own floor.
        allocation: `constant`, the same chance for all, or `optimal`, more for doubtful and cheap
            ones. It pays where the confidence is calibrated.
        daily_usd: dollars per day of UTC for audits and their judges. The rate is lowered so that
            it lasts; when it is used up, accepted drafts have no chance and count as "could not
            be audited". Needs a price of the large model, and of the judge.
        judge: a model that compares long answers, without knowing whose they are.
        judge_repeat: share of its comparisons that it makes twice, in either order: how often
            they differ is its error rate.
        judge_planted: share after which it is shown the draft beside itself.
        compare: how; or your own (question, draft, large model's answer) → loss in [−1, 1], 1
            where only the large model is right; it may be async.
        seed: of the draws, which follow from it and the run's id alone.

    Raises:
        ConfigurationError: a value cannot work.
    """

    rate: float = 0.05
    floor: float = 0.01
    allocation: Allocation = "constant"
    daily_usd: Dollars | None = None
    judge: ModelLike | None = None
    judge_repeat: float = 0.1
    judge_planted: float = 0.0
    compare: Comparing | UserCompare = "auto"
    seed: str = ""

    def __post_init__(self) -> None:
        for name in ("rate", "floor"):
            _check_share(name, getattr(self, name), least="above 0")
        for name in ("judge_repeat", "judge_planted"):
            _check_share(name, getattr(self, name), least="from 0")
        if self.allocation not in ("constant", "optimal"):
            raise ConfigurationError(
                f"Audits(allocation={self.allocation!r}): give 'constant' or 'optimal'."
            )
        if not callable(self.compare) and self.compare not in COMPARING:
            raise ConfigurationError(
                f"Audits(compare={self.compare!r}): give one of {', '.join(COMPARING)}, or a "
                "function (question, draft, large) -> loss in [-1, 1]."
            )
        if self.compare == "judge" and self.judge is None:
            raise ConfigurationError("Audits(compare='judge') needs judge=…, a model.")
        if self.judge is not None and (callable(self.compare) or self.compare not in _JUDGED):
            raise ConfigurationError(
                f"Audits(judge=…, compare={self.compare!r}): this comparison asks no judge. Give "
                "compare='auto' or 'judge', or leave the judge out."
            )
        self._check_budget()

    def _check_budget(self) -> None:
        if self.daily_usd is not None and not _dollars(self.daily_usd) > 0:
            raise ConfigurationError(f"Audits(daily_usd={self.daily_usd!r}): dollars, above 0.")


_JUDGED = ("auto", "judge")


def to_audits(audit_rate: float | Audits | None) -> Audits | None:
    """The options that a user gave, None where nothing is to be audited.

    Raises:
        ConfigurationError: it is neither a share nor `Audits`.
    """
    if audit_rate is None or isinstance(audit_rate, Audits):
        return audit_rate
    if isinstance(audit_rate, bool) or not isinstance(audit_rate, int | float):
        raise ConfigurationError(
            f"audit_rate={audit_rate!r}: give a share of accepted drafts such as 0.05, or "
            "Audits(rate=0.05, …)."
        )
    return None if audit_rate == 0 else Audits(rate=audit_rate)


def audit(
    audits: Audits,
    *,
    outlook: Outlook,
    task: Task,
    recorder: Recorder,
    background: Background,
    retry: RetryPolicy,
    doors: Doors,
    waits: bool,
) -> tuple[Auditor, OpenTier | None]:
    """The auditor of a cascade, and the judge that it asks.

    Args:
        audits: how.
        outlook: of the cascade; knows its tiers.
        task: tools and schema of every question.
        recorder: of the cascade; the auditor writes to the same store.
        background: does the work.
        retry: when to repeat a failed call.
        doors: what stands before each tier.
        waits: whether the waits between attempts are those of the doors.

    Raises:
        ConfigurationError: these options cannot work with these tiers or without a ledger.
    """
    tiers = outlook.tiers
    if len(tiers) < 2:
        raise ConfigurationError("audit_rate: with a single tier there are no drafts to audit.")
    if recorder.store is None:
        raise ConfigurationError(
            "audit_rate needs ledger=…: an audit's result comes after the reply, and nobody would "
            "see it. Give open_store('sqlite:///ledger.db'), or MemoryLedger()."
        )
    tier = None if audits.judge is None else open_tier(audits.judge, "judge")
    judge = None
    if tier is not None:
        judge = BlindJudge(tier, audits.judge_repeat, audits.judge_planted, audits.seed)
    own = Recorder(recorder.store, recorder.observers)
    return Auditor(
        caller=Caller(own, retry.max_attempts, doors=doors, waits=waits),
        outlook=outlook,
        background=background,
        rates=_rates(audits, tiers[-1], tier, recorder),
        compare=comparison(audits.compare, judge, has_schema=task.schema is not None),
        again=partial(pause_s, retry),
        seed=audits.seed,
    ), tier


def _rates(
    audits: Audits, large: OpenTier, judge: OpenTier | None, recorder: Recorder
) -> AuditRates:
    budget = None
    if audits.daily_usd is not None:
        for tier in (large, judge):
            if tier is not None and tier.pricing.cost(_PROBE, 1.0) is None:
                raise ConfigurationError(
                    f"Audits(daily_usd={audits.daily_usd}) cannot be kept: what {tier.name} "
                    f"({tier.model.name}) costs is unknown ({tier.pricing.source})."
                )
        store = recorder.store if isinstance(recorder.store, SpendStore) else None
        budget = Budget(_dollars(audits.daily_usd), store)
    return AuditRates(audits.rate, audits.floor, audits.allocation, budget)


_PROBE = Usage(input_tokens=1, output_tokens=1)


def _dollars(amount: Dollars) -> Decimal:
    try:
        dollars = Decimal(str(amount))
    except InvalidOperation:
        dollars = Decimal("NaN")
    if not dollars.is_finite():
        raise ConfigurationError(f"Audits(daily_usd={amount!r}): no amount of dollars.")
    return dollars


def _check_share(name: str, value: float, *, least: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1 or (value == 0 and least == "above 0"):
        raise ConfigurationError(f"Audits({name}={value!r}): a share, {least} and up to 1.")

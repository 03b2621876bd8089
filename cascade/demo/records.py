"""What goes into a run of the demo, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from cascade.demo.large import Source
from cascade.demo.report import Outcome, Report
from cascade.ledger import NodeTotal
from cascade.models import Model
from cascade.policies import ThresholdPolicy

SMALL = "llamacpp:smollm2-135m"

PER_HOUR = Decimal("0.05")
"""Assumed dollars per hour in which the small model computes: about what a cloud asks for two
shared cores."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What a user may choose.

    Attributes:
        n: how many questions, spread over the kinds; None for all.
        large: the large tier; None for the recorded answers.
        live: look for a local Ollama model or a key of OpenAI's instead of the recording.
        compare: ask a live large model every question, to know how good it is alone.
        large_price: `IN,OUT` in dollars per 1M tokens, instead of the list price.
        per_hour: dollars per hour in which the small model computes.
        threshold: confidence from which on a draft is accepted.
        small: the small tier.
        out: folder for the picture and the page.
    """

    n: int | None = None
    large: str | Model | None = None
    live: bool = False
    compare: bool = False
    large_price: str | None = None
    per_hour: Decimal = PER_HOUR
    threshold: float = ThresholdPolicy().threshold
    small: str | Model = SMALL
    out: Path = field(default_factory=lambda: Path("demo-output"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What runs and what is assumed: said before the run and with every figure.

    Attributes:
        n: how many questions.
        small: the small model, which always runs live.
        large: the large model.
        large_source: whether its answers are made now or were recorded.
        large_alone: whether its answer to every question is known, also where it was not needed.
        remarks: where the large model comes from.
        assumptions: prices and settings that nobody measured.
        threshold: confidence from which on drafts are accepted.
    """

    n: int
    small: str
    large: str
    large_source: Source
    large_alone: bool
    remarks: tuple[str, ...]
    assumptions: tuple[str, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run found out.

    Attributes:
        nodes: what each node cost and saved, as the ledgers of the runs have it.
        table: the same as text, with the basis of each figure.
        degraded: questions whose large model could not be had.
        compare_cost: dollars that `compare` spent on answers that the cascade did not need;
            in no other figure. None where unknown.
        seconds: how long the run took.
    """

    facts: Facts
    report: Report
    nodes: tuple[NodeTotal, ...]
    table: str
    outcomes: tuple[Outcome, ...]
    degraded: int
    compare_cost: Decimal | None
    seconds: float

    def figures(self) -> dict[str, object]:
        """The figures for machines: shares between 0 and 1, money as decimals."""
        report, overall = self.report, self.report.overall
        shares = {
            "accuracy_small": overall.small,
            "accuracy_large": overall.large,
            "accuracy_cascade": overall.cascade,
            "escalation_rate": overall.escalated,
            "accuracy_of_accepted_drafts": overall.accepted_right,
        }
        return {
            "facts": self.facts,
            **{
                name: share and {"value": share.rate, "n": share.n, "interval": share.interval}
                for name, share in shares.items()
            },
            "auroc": report.auroc,
            "cost_small_usd": report.small_cost,
            "cost_large_usd": report.large_cost,
            "cost_cascade_usd": report.cascade_cost,
            "saved_share": report.saved_share,
            "degraded": self.degraded,
            "compare_cost_usd": self.compare_cost,
            "seconds": self.seconds,
            "nodes": self.nodes,
        }


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What a run found out and where it is drawn.

    Attributes:
        page: the HTML page.
        picture: the PNG; None where matplotlib is not installed.
    """

    findings: Findings
    page: Path
    picture: Path | None

    def figures(self) -> dict[str, object]:
        """The figures and the files, for machines."""
        return {**self.findings.figures(), "page": self.page, "picture": self.picture}


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run is; `outcome` is that of the question that was answered last."""

    done: int
    total: int
    escalated: int
    outcome: Outcome | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who wants to know while the demo runs: first the facts, then every step."""

    begins: Callable[[Facts], None] = lambda _: None
    steps: Callable[[Step], None] = lambda _: None

"""Calibration of a cascade on labelled examples: ask both models, fit, say what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cascade.confidence import MadeFor, system_hash
from cascade.errors import ConfigurationError
from cascade.evaluation.collecting import (
    Answered,
    Ask,
    Collected,
    Fitted,
    Recording,
    collect,
    fit,
)
from cascade.evaluation.crossfit import Options
from cascade.evaluation.recordings import (
    Example,
    Transcript,
    TranscriptWriter,
    read_transcripts,
    rows_of_pair,
)
from cascade.evaluation.scorers import Scorer
from cascade.evaluation.trajectories import with_features
from cascade.kernel import Kernel
from cascade.policies import Situation
from cascade.questions import to_messages
from cascade.run import CascadeRuntime, Run
from cascade.setup import identify, task_hash
from cascade.state import Decision, LedgerEntry

SIGNALS = ("logprobs", "text", "prompt")
"""What a calibration takes where no signals are named; all of it is free."""

LEAST_LABELS = 20
"""Fewer labelled drafts are no calibration."""


class AlwaysEscalate:
    """Policy that asks the large model about every draft, to record both."""

    def decide(self, situation: Situation) -> Decision:
        """Escalate."""
        return Decision(
            action="escalate",
            reason="both models are recorded",
            confidence=situation.assessment.confidence,
        )


def asks_both(kernel: Kernel) -> Ask:
    """What asks both models of a cascade whose policy is `AlwaysEscalate`."""

    async def ask(example: Example) -> tuple[Answered, Answered]:
        run = kernel.begin(list(example.messages))
        runtime = CascadeRuntime(kernel, show="final")
        while run.step not in ("expert", "end"):
            await kernel.advance(run, runtime)
        draft = _answered(run, run.entries)
        before = len(run.entries)
        while run.step != "end":
            await kernel.advance(run, runtime)
        if run.degraded:  # what would be recorded as its answer is the draft
            raise ConfigurationError("the large model gave no answer to be recorded.")
        return draft, _answered(run, run.entries[before:])

    return ask


def _answered(run: Run, entries: Sequence[LedgerEntry]) -> Answered:
    if run.draft is None:
        raise ConfigurationError("the small model gave no draft to be recorded.")
    calls = [entry for entry in entries if entry.model is not None]
    return Answered(
        run.draft,
        _sum([entry for entry in calls if entry.node != "self_check"]),
        features=dict(run.signals),
        confidence=run.confidence,
        check_cost_usd=_sum([entry for entry in calls if entry.node == "self_check"]),
    )


def _sum(entries: Sequence[LedgerEntry]) -> Decimal | None:
    costs = [entry.cost_usd for entry in entries]
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What came of calibrating.

    Attributes:
        fitted: the calibration, its certificates, and what it is worth.
        collected: how the examples went; None where they had been recorded before.
    """

    fitted: Fitted
    collected: Collected | None


async def record(
    kernel: Kernel,
    examples: Sequence[Example],
    path: Path,
    scorer: Scorer,
    *,
    agree_with_large: bool = False,
    concurrency: int = 8,
    progress: Callable[[Collected], None] = lambda done: None,
) -> Collected:
    """Record the answers of both models, and go on where an earlier recording was interrupted.

    Raises:
        ConfigurationError: the file holds answers of another set-up.
        CascadeError: nothing but failures.
    """
    parts = kernel.parts
    small, large = kernel.tiers[0], kernel.tiers[-1]
    recording = Recording(
        small.model.name,
        large.model.name,
        scorer,
        {
            "small": task_hash(parts.settings or {}, small),
            "large": task_hash(parts.settings or {}, large),
            "signals": [f"{s.name} {s.wording}".strip() for s in parts.signals],
        },
        dataset=path.stem,
        agree_with_large=agree_with_large,
    )
    with TranscriptWriter(path) as writer:
        return await collect(
            examples,
            asks_both(kernel),
            recording,
            writer,
            concurrency=concurrency,
            progress=progress,
        )


async def made_for(kernel: Kernel, path: Path, examples: Sequence[Example], labels: Any) -> MadeFor:
    """What a calibration on these recordings is bound to.

    Raises:
        ConfigurationError: they were made with other settings of the small model.
    """
    small, large = kernel.tiers[0], kernel.tiers[-1]
    task = task_hash(kernel.parts.settings or {}, small)
    systems: set[str | None] = {system_hash(example.messages) for example in examples}
    if not examples:
        for row in read_transcripts(path):
            made_with = (row.model_extra or {}).get("made_with", {})
            if made_with.get("small", task) != task:
                raise ConfigurationError(
                    f"{path}: example {row.id!r} was answered with other settings of the small "
                    "model: give the same --max-tokens and --temperature as it was recorded with."
                )
            systems.add(made_with.get("system"))
    return MadeFor(
        small=await identify(small),
        large=await identify(large),
        task_hash=task,
        system_hash=systems.pop() if len(systems) == 1 else None,
        labels=labels,
    )


async def calibrate(
    kernel: Kernel,
    path: Path,
    examples: Sequence[Example] = (),
    *,
    labels: Any = "references",
    max_harms: Sequence[float] = (),
    delta: float = 0.1,
    options: Options | None = None,
) -> Fitted:
    """Fit a calibration to recorded answers, and say what it is worth.

    Raises:
        ConfigurationError: too few rows, or they were made with other settings.
    """
    small, large = kernel.tiers[0].model.name, kernel.tiers[-1].model.name
    rows: list[Transcript] = rows_of_pair(list(read_transcripts(path)), small, large)
    if any(row.models[small].steps for row in rows):
        rows = with_features(rows)
    signals = [(signal.name, signal.calls) for signal in kernel.parts.signals]
    binding = await made_for(kernel, path, examples, labels)
    return fit(rows, binding, signals, options, max_harms=max_harms, delta=delta)


async def calibrate_examples(
    kernel: Kernel, examples: Sequence[Example], scorer: Scorer, **options: Any
) -> Calibrated:
    """Ask both models about examples, and calibrate on the answers; nothing is kept on disk."""
    with TemporaryDirectory(prefix="cascade-") as folder:
        path = Path(folder) / "examples.jsonl"
        collected = await record(kernel, examples, path, scorer)
        return Calibrated(await calibrate(kernel, path, examples, **options), collected)


def to_examples(given: Sequence[Any]) -> list[Example]:
    """Examples as users write them: `(question, reference)` pairs, or dicts with `question` and
    `reference`.

    Raises:
        ConfigurationError: one is neither, or there are too few.
    """
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"examples={given!r}: give a list of (question, reference) pairs.")
    examples: list[Example] = []
    for number, item in enumerate(given):
        if isinstance(item, Example):
            examples.append(item)
            continue
        if isinstance(item, dict) and "question" in item and "reference" in item:
            question, reference = item["question"], item["reference"]
        elif isinstance(item, tuple | list) and len(item) == 2:
            question, reference = item
        else:
            raise ConfigurationError(
                f"example {number} is {item!r}: give (question, reference) pairs."
            )
        examples.append(Example(str(number), tuple(to_messages(question)), reference))
    if len(examples) < LEAST_LABELS:
        raise ConfigurationError(
            f"{len(examples)} examples, where {LEAST_LABELS} or more are needed; 100 to 300 are "
            "usual. Nothing was asked."
        )
    return examples

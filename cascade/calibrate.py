"""Calibration of a cascade on labelled examples: ask both models, fit, say what it is worth.

A recording goes on after an interrupt: what was recorded is never asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import JsonValue

from cascade.confidence import MadeFor, system_hash
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.evaluation.crossfit import Options
from cascade.evaluation.fitting import Fitted, fit
from cascade.evaluation.recordings import (
    Example,
    Outcome,
    Transcript,
    TranscriptWriter,
    read_transcripts,
    rows_of_pair,
)
from cascade.evaluation.scorers import Score, Scorer
from cascade.evaluation.trajectories import with_features
from cascade.kernel import Kernel
from cascade.ledger.view import LedgerView
from cascade.policies import Situation
from cascade.questions import to_messages
from cascade.run import CascadeRuntime, Run
from cascade.setup import identify, task_hash
from cascade.state import Completion, Decision, LedgerEntry

SIGNALS = ("logprobs", "text", "prompt")
"""What a calibration takes where no signals are named; all of it is free."""

LEAST_LABELS = 20
"""Fewer labelled drafts are no calibration."""

GIVE_UP_AFTER = 20
"""Failures without one success: the set-up is wrong, and each further question costs money."""

MADE_WITH = "made_with"
"""Key of a transcript: the settings, so that answers of different ones are never mixed."""


class AlwaysEscalate:
    """Policy that asks the large model about every draft, to record both."""

    def decide(self, situation: Situation) -> Decision:
        """Escalate."""
        return Decision(
            action="escalate",
            reason="both models are recorded",
            confidence=situation.assessment.confidence,
        )


# Recording ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Collected:
    """How far recording is.

    Attributes:
        total: examples; `skipped` of them were recorded before.
        written: recorded now.
        unlabelled: left out, since nothing says whether an answer is right.
        failures: id → why; the next run tries them again.
        spent_usd: on what was recorded now; None where a part is unknown.
        seconds: since it began.
    """

    total: int
    skipped: int = 0
    written: int = 0
    unlabelled: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    spent_usd: Decimal | None = Decimal(0)
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """Examples that are not done."""
        return self.total - self.skipped - self.written - self.unlabelled - len(self.failures)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at this pace; None before the first is there."""
        return self.seconds / self.written * self.left if self.written else None

    @property
    def left_usd(self) -> Decimal | None:
        """Dollars that the rest costs at this pace; None where unknown."""
        if not self.written or self.spent_usd is None:
            return None
        return self.spent_usd / self.written * self.left


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
    """Answer examples with both models and write their transcripts, but those that are there.

    Args:
        kernel: of a cascade whose policy is `AlwaysEscalate`.
        examples: with what is known about their answers.
        path: of the transcripts.
        scorer: compares answers with references.
        agree_with_large: there are no references: the large model's answer counts as right, and
            what is certified is the loss relative to it.
        concurrency: examples under way at once.
        progress: called after each example.

    Raises:
        ConfigurationError: the models are one, the concurrency is below 1, a reference cannot be
            read, or the file holds answers to other questions, or of other models or settings.
        CascadeError: nothing but failures: `GIVE_UP_AFTER` of them and no success.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    recorder = _Recorder(kernel, scorer, path.stem, agree_with_large)
    with TranscriptWriter(path) as writer:
        await recorder.check_references(examples)
        recorder.check_resumable(examples, writer)
        done = Collected(len(examples), skipped=sum(e.id in writer.ids for e in examples))
        began, queue = time.monotonic(), [e for e in examples if e.id not in writer.ids]

        async def work() -> None:
            while queue:
                await recorder.add(queue.pop(0), writer, done)
                done.seconds = time.monotonic() - began
                progress(done)
                _check_hope(done)

        workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(queue)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return done


def _check_hope(done: Collected) -> None:
    if done.written or done.skipped or len(done.failures) < GIVE_UP_AFTER:
        return
    first, *_ = done.failures.values()
    raise CascadeError(
        f"the first {len(done.failures)} examples all failed, and no more are asked. The first "
        f"one: {first}"
    )


def _reason(run: Run) -> str:
    return "nothing was decided." if run.decision is None else run.decision.reason


class _Recorder:
    """What asks both models about examples, and judges the answers."""

    def __init__(
        self, kernel: Kernel, scorer: Scorer, dataset: str, agree_with_large: bool
    ) -> None:
        self._kernel, self._scorer, self._dataset = kernel, scorer, dataset
        self._agree, parts = agree_with_large, kernel.parts
        tiers = {"small": kernel.tiers[0], "large": kernel.tiers[-1]}
        self._small, self._large = (tier.model.name for tier in tiers.values())
        if self._small == self._large:
            raise ConfigurationError(
                f"small and large are both {self._small}: transcripts tell answers apart by the "
                "model's name, so two different ones are needed."
            )
        self._made_with: dict[str, JsonValue] = {
            **{name: task_hash(parts.settings or {}, tier) for name, tier in tiers.items()},
            "signals": [f"{s.name} {s.wording}".strip() for s in parts.signals],
            "scorer": f"{scorer.spec}{', agreement with large' * agree_with_large}",
        }

    def _settings_of(self, example: Example) -> dict[str, JsonValue]:
        """The settings that an example's answers are made with, its system message among them."""
        return {**self._made_with, "system": system_hash(example.messages)}

    async def check_references(self, examples: Sequence[Example]) -> None:
        """A reference that the scorer cannot read is found before anything is paid."""
        if self._agree or not self._scorer.computes:
            return
        for example in examples:
            try:
                if example.reference is not None:
                    await self._scorer.score("", example.reference, question=example.question)
            except InputError as error:
                raise ConfigurationError(f"example {example.id!r}: {error}") from error

    def check_resumable(self, examples: Sequence[Example], writer: TranscriptWriter) -> None:
        """What is in the file was made with these models, questions and settings."""
        asked = {example.id: example for example in examples if example.id in writer.ids}
        for row in read_transcripts(writer.path) if asked else ():
            if row.id not in asked:
                continue
            wanted = self._settings_of(asked[row.id])
            made = (row.model_extra or {}).get(MADE_WITH, wanted)
            other = [name for name, value in wanted.items() if made.get(name, value) != value]
            if {self._small, self._large} - set(row.models):
                why = f"is of {' and '.join(row.models)}"
            elif row.prompt != asked[row.id].question:
                why = f"answers another question, {row.prompt[:60]!r}"
            elif other:
                why = f"was made with another setting ({', '.join(other)})"
            else:
                continue
            raise ConfigurationError(
                f"{writer.path} cannot be continued: its example {row.id!r} {why}. Delete it, or "
                "record to another file."
            )

    async def add(self, example: Example, writer: TranscriptWriter, done: Collected) -> None:
        """Ask both models, unless nothing says which answer is right, and write what comes."""
        if not (self._agree or example.labels or example.reference is not None):
            done.unlabelled += 1
            return
        try:
            row, spent = await self._answer(example)
        except CascadeError as error:
            done.failures[example.id] = str(error)
            return
        if row is None:
            done.unlabelled += 1
            return
        writer.write(row)
        done.written += 1
        costs = (done.spent_usd, spent)
        done.spent_usd = None if None in costs else sum(filter(None, costs), Decimal(0))

    async def _answer(self, example: Example) -> tuple[Transcript | None, Decimal | None]:
        """The transcript, none where nothing says whether an answer is right, and dollars."""
        kernel, run = self._kernel, self._kernel.begin(list(example.messages))
        runtime = CascadeRuntime(kernel, show="final")
        while run.step not in ("expert", "end"):
            await kernel.advance(run, runtime)
        draft, drafted = run.draft, [entry for entry in run.entries if entry.model is not None]
        signals, confidence = dict(run.signals), run.confidence
        if draft is None:
            raise ConfigurationError(f"no draft to be recorded: {_reason(run)}")
        while run.step != "end":
            await kernel.advance(run, runtime)
        large = run.draft
        if large is None or run.degraded:  # degraded: it would be the draft's
            raise ConfigurationError(f"no large answer to be recorded: {_reason(run)}")
        reference = large.text if self._agree else example.reference
        scores = [await self._score(example, one.text, reference) for one in (draft, large)]
        right, best = (score.value for score in scores)
        if right is None or best is None:
            return None, None
        calls = [entry for entry in run.entries if entry.model is not None]
        checks = [entry for entry in drafted if entry.node == "self_check"]
        drafts = [entry for entry in drafted if entry.node != "self_check"]
        check_usd = LedgerView(checks).cost_usd
        said = {"features": signals, "confidence": confidence, "check_cost_usd": check_usd}
        row = Transcript(
            dataset=self._dataset,
            id=example.id,
            prompt=example.question,
            reference=reference,
            models={
                self._small: _outcome(draft, right, drafts, **said),
                self._large: _outcome(large, best, calls[len(drafted) :]),
            },
            **{MADE_WITH: self._settings_of(example)},
        )
        judged = any(score.completion is not None for score in scores)
        return row, None if judged else LedgerView(calls).cost_usd

    async def _score(self, example: Example, answer: str, reference: JsonValue) -> Score:
        if answer.strip() in example.labels:
            return Score(float(example.labels[answer.strip()]))
        if reference is None or (self._agree and not str(reference).strip()):
            return Score(None)
        if self._agree and answer == reference:
            return Score(1.0)
        return await self._scorer.score(answer, reference, question=example.question)


def _outcome(
    answer: Completion, correct: float, calls: Sequence[LedgerEntry], **more: Any
) -> Outcome:
    found: dict[str, Any] = {"cost_usd": LedgerView(calls).cost_usd, **more}
    return Outcome(
        correct=correct,
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        output=answer.transcript,
        latency_ms=answer.latency_ms,
        **found,
    )


# Calibrating ----------------------------------------------------------------------------------


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
            made_with = (row.model_extra or {}).get(MADE_WITH, {})
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
) -> Fitted:
    """Ask both models about examples, and calibrate on the answers; nothing is kept on disk."""
    with TemporaryDirectory(prefix="cascade-") as folder:
        path = Path(folder) / "examples.jsonl"
        await record(kernel, examples, path, scorer)
        return await calibrate(kernel, path, examples, **options)


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

"""From labelled examples to a verdict: record both models, fit, print the menu, write artefacts.

Models are asked through a callable (`Ask`), so that nothing here knows the kernel. Recordings go
on after an interrupt: what was recorded is never asked again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path

import numpy as np
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from pydantic import JsonValue

from cascade.confidence import LabelledDraft, MadeFor, system_hash
from cascade.confidence.calibrating import calibrate, confidences, halves
from cascade.confidence.calibration import Calibration
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.evaluation.crossfit import LEAST_ROWS, Options
from cascade.evaluation.features import Pair, pair_of
from cascade.evaluation.ladder import Ladder, climb, shape_of_calibration
from cascade.evaluation.metrics import Rows
from cascade.evaluation.page import to_page
from cascade.evaluation.recordings import (
    Example,
    Outcome,
    Transcript,
    TranscriptWriter,
    read_transcripts,
)
from cascade.evaluation.scorers import Score, Scorer
from cascade.evaluation.verdict import FAIR_TEST, Evaluation, evaluate, to_document
from cascade.ledger.prices import Price, Pricing
from cascade.policies import Refusal, certify
from cascade.state import Completion, Usage

GIVE_UP_AFTER = 20
"""Failures without one success: the set-up is wrong, and each further question costs money."""

CHARACTERS_PER_TOKEN, ASSUMED_OUTPUT_TOKENS = 4, 200
"""For the cost shown beforehand."""

MOST_LABELS, SHORT = 30, 40
"""So many different answers of so many characters are labels to choose from."""

REPEATS = 3
"""Of the cross-fitting of a calibration, which takes a tenth of a second for each of five folds."""

VALID_DAYS = 90
"""Traffic drifts: a promise older than a quarter should be proved again."""

SHOWN = ("cascade", "router", "small")
"""Verdicts for something that saves."""

MADE_WITH = "made_with"
"""Key of a transcript: the settings, so that answers of different ones are never mixed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answer to an example; None where dollars are unknown.

    A draft has what its signals gave, its confidence as it was said, and the dollars of the
    signals that asked a model.
    """

    completion: Completion
    cost_usd: Decimal | None
    features: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    check_cost_usd: Decimal | None = Decimal(0)

    def outcome(self, correct: float) -> Outcome:
        """As it is recorded."""
        usage = self.completion.usage
        return Outcome(
            correct=correct,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=_number(self.cost_usd),
            output=self.completion.transcript,
            latency_ms=self.completion.latency_ms,
        )

    def drafted(self, correct: float) -> Outcome:
        """The same of a draft."""
        found: dict[str, object] = {"features": dict(self.features), "confidence": self.confidence}
        found["check_cost_usd"] = _number(self.check_cost_usd)
        return self.outcome(correct).model_copy(update=found)


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


Ask = Callable[[Example], Awaitable[tuple[Answered, Answered]]]
"""Asks both models: (draft, large answer). A `CascadeError` is a failure of this example."""


@dataclass(slots=True)
class Collected:
    """How far collecting is.

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


@dataclass(frozen=True, slots=True)
class Recording:
    """What is recorded, and how: `made_with` are the settings of both models and the signals.

    With `agree_with_large` there are no references: the large model's answer counts as right, and
    what is certified is the loss relative to it.
    """

    small: str
    large: str
    scorer: Scorer
    made_with: Mapping[str, JsonValue]
    dataset: str = "examples"
    agree_with_large: bool = False

    def labelled(self, example: Example) -> bool:
        """Whether anything says which answers are right."""
        return self.agree_with_large or bool(example.labels) or example.reference is not None

    async def transcript(
        self, example: Example, draft: Answered, large: Answered
    ) -> tuple[Transcript | None, bool]:
        """The record of an example, none without a verdict, and whether a judge was asked."""
        best = large.completion.text
        reference = best if self.agree_with_large else example.reference
        found = await self._score(example, draft.completion.text, reference)
        other = await self._score(example, best, reference)
        judged = found.completion is not None or other.completion is not None
        if found.value is None or other.value is None:
            return None, judged
        record = Transcript(
            dataset=self.dataset,
            id=example.id,
            prompt=example.question,
            reference=reference,
            models={self.small: draft.drafted(found.value), self.large: large.outcome(other.value)},
        )
        return record.model_copy(update={MADE_WITH: self.settings_of(example)}), judged

    def settings_of(self, example: Example) -> dict[str, JsonValue]:
        """The settings that an example's answers were made with, its system message among them."""
        told = system_hash(example.messages)
        scored = f"{self.scorer.spec}{', agreement with large' * self.agree_with_large}"
        return {**self.made_with, "system": told, "scorer": scored}

    async def _score(self, example: Example, answer: str, reference: JsonValue) -> Score:
        if answer.strip() in example.labels:
            return Score(float(example.labels[answer.strip()]))
        if reference is None or (self.agree_with_large and not str(reference).strip()):
            return Score(None)
        if self.agree_with_large and answer == reference:
            return Score(1.0)
        return await self.scorer.score(answer, reference, question=example.question)


async def collect(
    examples: Sequence[Example],
    ask: Ask,
    recording: Recording,
    writer: TranscriptWriter,
    *,
    concurrency: int = 8,
    progress: Callable[[Collected], None] = lambda done: None,
) -> Collected:
    """Answer examples with both models and write their transcripts, but those that are there.

    `progress` is called after each example.

    Raises:
        ConfigurationError: the models are one, the concurrency is below 1, a reference cannot be
            read, or the file holds answers to other questions, or of other models or settings.
        CascadeError: nothing but failures: `GIVE_UP_AFTER` of them and no success.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    if recording.small == recording.large:
        raise ConfigurationError(
            f"small and large are both {recording.small}: transcripts tell answers apart by the "
            "model's name, so two different ones are needed."
        )
    await _check_references(examples, recording)
    _check_resumable(examples, recording, writer)
    done = Collected(len(examples), skipped=sum(e.id in writer.ids for e in examples))
    began, queue = time.monotonic(), [e for e in examples if e.id not in writer.ids]

    async def one(example: Example) -> None:
        if not recording.labelled(example):
            done.unlabelled += 1
            return
        try:
            draft, large = await ask(example)
            record, judged = await recording.transcript(example, draft, large)
        except CascadeError as error:
            done.failures[example.id] = str(error)
            return
        if record is None:
            done.unlabelled += 1
            return
        writer.write(record)
        done.written += 1
        costs = [done.spent_usd, draft.cost_usd, draft.check_cost_usd, large.cost_usd]
        known = [cost for cost in costs if cost is not None]
        complete = len(known) == len(costs) and not judged
        done.spent_usd = sum(known, Decimal(0)) if complete else None

    async def work() -> None:
        while queue:
            await one(queue.pop(0))
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


async def _check_references(examples: Sequence[Example], recording: Recording) -> None:
    """A reference that the scorer cannot read is found before anything is paid."""
    if recording.agree_with_large or not recording.scorer.computes:
        return
    for example in examples:
        try:
            if example.reference is not None:
                await recording.scorer.score("", example.reference, question=example.question)
        except InputError as error:
            raise ConfigurationError(f"example {example.id!r}: {error}") from error


def _check_resumable(
    examples: Sequence[Example], recording: Recording, writer: TranscriptWriter
) -> None:
    asked = {example.id: example for example in examples if example.id in writer.ids}
    for record in read_transcripts(writer.path) if asked else ():
        if record.id not in asked:
            continue
        wanted = recording.settings_of(asked[record.id])
        made = (record.model_extra or {}).get(MADE_WITH, wanted)
        other = [name for name, value in wanted.items() if made.get(name, value) != value]
        if {recording.small, recording.large} - set(record.models):
            why = f"is of {' and '.join(record.models)}"
        elif record.prompt != asked[record.id].question:
            why = f"answers another question, {record.prompt[:60]!r}"
        elif other:
            why = f"was made with another setting ({', '.join(other)})"
        else:
            continue
        raise ConfigurationError(
            f"{writer.path} cannot be continued: its example {record.id!r} {why}. Delete it, or "
            "record to another file."
        )


def _check_hope(done: Collected) -> None:
    if done.written or done.skipped or len(done.failures) < GIVE_UP_AFTER:
        return
    *_, last = done.failures.values()
    raise CascadeError(
        f"the first {len(done.failures)} examples all failed, and no more are asked. The last "
        f"one: {last}"
    )


# Before anything is asked ---------------------------------------------------------------------


def expected_usd(
    examples: Sequence[Example], pricing: Pricing, *, max_tokens: int | None = None, calls: int = 1
) -> Decimal | None:
    """Roughly the dollars of asking a model, `calls` times an example, from the length of texts
    and `max_tokens`; None when it has no token price."""
    total = Decimal(0)
    for example in examples:
        text = sum(len(str(message.text)) for message in example.messages)
        usage = Usage(
            input_tokens=text // CHARACTERS_PER_TOKEN + 16,
            output_tokens=max_tokens or ASSUMED_OUTPUT_TOKENS,
        )
        cost = pricing.cost(usage, None)
        if cost is None:
            return None
        total += cost * calls
    return total


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The answers to choose from, where the references are a few short texts that come again:
    they want temperature 0 and to be named in the system message."""
    counts = Counter(e.reference for e in examples if isinstance(e.reference, str))
    few = 0 < len(counts) <= MOST_LABELS and counts.total() >= 2 * len(counts)
    if not few or max(map(len, counts)) > SHORT:
        return ()
    return tuple(sorted(counts))


def with_shots(examples: Sequence[Example], shots: int) -> list[Example]:
    """The other examples, each with `shots` of them before its question, as many of each answer
    as there are.

    Raises:
        ConfigurationError: fewer examples with a reference than shots.
    """
    same: dict[str, list[Example]] = {}
    for example in examples:
        if example.reference is not None:
            same.setdefault(str(example.reference), []).append(example)
    in_turn = [e for one_of_each in zip_longest(*same.values()) for e in one_of_each if e]
    if not 0 <= shots <= len(in_turn):
        raise ConfigurationError(
            f"shots={shots}: only {len(in_turn)} examples have a reference to show."
            if shots > 0
            else f"shots={shots}: give a whole number, 0 or more."
        )
    shown: list[AnyMessage] = []
    for example in in_turn[:shots]:
        shown += [HumanMessage(example.question), AIMessage(str(example.reference))]
    ids = {example.id for example in in_turn[:shots]}

    def put(messages: tuple[AnyMessage, ...]) -> tuple[AnyMessage, ...]:
        first = 1 if messages[0].type == "system" else 0
        return (*messages[:first], *shown, *messages[first:])

    return [replace(e, messages=put(e.messages)) for e in examples if e.id not in ids]


# Fitting --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration as it decides online, with its certificates, and those that were refused.

    `evaluated` is what this way of calibrating is worth, on rows left out of it; None where there
    are too few rows to say.
    """

    calibration: Calibration
    refusals: tuple[Refusal, ...]
    evaluated: Evaluation | None

    @property
    def evaluation(self) -> Evaluation:
        """What it is worth.

        Raises:
            ConfigurationError: there are too few rows to say.
        """
        if self.evaluated is None:
            raise ConfigurationError(
                f"{self.calibration.quality.n} labelled drafts with both models are too few to say "
                f"what a cascade is worth: {LEAST_ROWS} or more are needed, and {FAIR_TEST} for a "
                "fair test."
            )
        return self.evaluated


def fit(
    records: Sequence[Transcript],
    made_for: MadeFor,
    signals: Sequence[tuple[str, int]],
    options: Options | None = None,
    *,
    max_harms: Sequence[float] = (),
    delta: float = 0.1,
) -> Fitted:
    """Calibrate on recorded answers, and say what that is worth.

    `signals` are (name, calls), cheapest first. With `max_harms`, bounds on P(accepted and wrong)
    to certify, one half of the rows fits the calibration and the other proves it; `delta` is the
    chance that a certificate does not hold.

    Raises:
        ConfigurationError: no row has both models, too few rows, or a bound that is none.
    """
    large = made_for.large.name if made_for.large is not None else ""
    pair = pair_of(records, made_for.small.name, large)
    outcomes, ids = pair.outcomes(pair.small), [row.id for row in pair.rows]
    labels = zip(
        outcomes, pair.small_correct.tolist(), pair.large_correct.tolist(), ids, strict=True
    )
    drafts = [LabelledDraft(o.features, right, best, name) for o, right, best, name in labels]

    def choose(part: Pair, rows: Rows) -> Ladder:
        made = calibrate([drafts[i] for i in rows], signals, made_for)
        return climb([shape_of_calibration(made, part, rows)])

    options = options or Options()
    options = options.model_copy(update={"repeats": options.repeats or REPEATS})
    enough = len(pair) >= LEAST_ROWS
    evaluation = evaluate(pair, options, choose=choose) if enough else None
    if not max_harms:
        return Fitted(calibrate(drafts, signals, made_for), (), evaluation)
    fitting, proving = halves(drafts)
    calibration = calibrate(fitting, signals, made_for)
    correct = np.array([draft.correct for draft in proving])
    until = datetime.now(UTC) + timedelta(days=VALID_DAYS)
    said = confidences(calibration, proving)
    found = [certify(said, correct, max_harm=h, delta=delta, valid_until=until) for h in max_harms]
    proved = tuple(c for c in found if not isinstance(c, Refusal))
    refused = (r.model_copy(update={"halved": True}) for r in found if isinstance(r, Refusal))
    calibration = calibration.model_copy(update={"certificates": proved})
    return Fitted(calibration, tuple(refused), evaluation)


def set_price(pricing: Pricing) -> dict[str, JsonValue]:
    """`price` of a tier as `write_artefacts` takes it; nothing where the user has set none."""
    if not isinstance(pricing, Price):
        return {}
    return {"price": pricing.model_dump(mode="json", exclude_none=True, exclude={"source"})}


def write_artefacts(
    folder: Path, fitted: Fitted, tiers: Sequence[Mapping[str, JsonValue]], name: str = "tried"
) -> dict[str, Path]:
    """Write the calibration, a page, and a `cascade.yaml` that `cascade serve` takes.

    `tiers` are of the service's configuration, small to large: `model`, `price`, `temperature`, …

    Returns:
        the files, by what they are.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    found = fitted.evaluation
    files = {
        "calibration": folder / "calibration.json",
        "page": folder / "verdict.html",
        "configuration": folder / "cascade.yaml",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fitted.calibration.save(files["calibration"])
        files["page"].write_text(to_page(to_document(found)), encoding="utf-8")
        text = _configuration(name, tiers, files["calibration"], found)
        files["configuration"].write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written ({error.strerror}).") from error
    return files


def _configuration(
    name: str, tiers: Sequence[Mapping[str, JsonValue]], calibration: Path, found: Evaluation
) -> str:
    """The service's configuration; what is JSON is YAML too."""
    price = found.recommended.price_of_error_usd
    decided = (
        f"    price_of_error: {price:.6g}\n"
        if found.verdict in SHOWN and price is not None
        else "    # No saving was shown: the small model is measured beside the large one.\n"
        "    mode: shadow\n"
    )
    listed = "".join(f"      - {json.dumps(dict(tier))}\n" for tier in tiers)
    made = "Made by `cascade try`"
    if any(str(tier["model"]).startswith("replay:") for tier in tiers):
        made = "A recording answers what was recorded alone: `cascade try` takes your models"
    return (
        f"# {made}; `cascade serve cascade.yaml` runs it.\n"
        "ledger: sqlite:///ledger.db\n"
        f"cascades:\n  {name}:\n    tiers:\n{listed}"
        f"    calibrator: {json.dumps(calibration.name)}\n"
        f"{decided}    audits: 0.05\n"
    )

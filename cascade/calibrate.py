"""Calibration of a cascade: ask both models about examples, fit, say what it is worth, write it.

A recording goes on after an interrupt: what was recorded is never asked again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from pydantic import JsonValue

from cascade.confidence import calibrating
from cascade.confidence.base import shots_of, system_hash
from cascade.confidence.calibrating import LEAST_LABELS
from cascade.confidence.calibration import Calibration, MadeFor, ModelIdentity
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
    rows_of_pair,
)
from cascade.evaluation.scorers import Score, Scorer
from cascade.evaluation.trajectories import with_features
from cascade.evaluation.verdict import FAIR_TEST, Evaluation, evaluate, to_document
from cascade.kernel import Kernel
from cascade.ledger.prices import Price, Pricing, has_price
from cascade.ledger.view import LedgerView
from cascade.middleware.calibrated import task_hash
from cascade.policies import Refusal, Situation, certify
from cascade.questions import to_messages
from cascade.run import CascadeRuntime
from cascade.state import Completion, Decision, Usage
from cascade.tiers import OpenTier

SIGNALS = ("logprobs", "text", "prompt")
"""Signals of a calibration where none are named; all are free."""

GIVE_UP_AFTER = 20
"""Failures in a row: the set-up is wrong, or a server is gone, and each question costs money."""

CHARACTERS_PER_TOKEN, ASSUMED_OUTPUT_TOKENS = 4, 200
"""For the cost shown beforehand."""

MOST_LABELS, SHORT = 30, 40
"""So many different answers of so many characters are labels to choose from."""

REPEATS = 3
"""Of the cross-fitting of a calibration, which takes a tenth of a second for each of five folds."""

VALID_DAYS = 90
"""Traffic drifts: a promise older than a quarter should be proved again."""

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


# Examples -------------------------------------------------------------------------------------


def to_examples(given: Sequence[Any], *, halves: bool = False) -> list[Example]:
    """Examples as users write them: `(question, reference)` pairs, or dicts with `question` and
    `reference`; with `halves`, enough for one to fit and one to prove.

    Raises:
        ConfigurationError: one is neither, or there are too few.
    """
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"examples={given!r}: give a list of (question, reference) pairs.")
    examples: list[Example] = []
    for number, item in enumerate(given):
        match item:
            case {"question": question, "reference": reference} | (question, reference):
                examples.append(Example(str(number), tuple(to_messages(question)), reference))
            case _:
                raise ConfigurationError(
                    f"example {number} is {item!r}: give (question, reference) pairs."
                )
    if len(examples) < (needed := LEAST_LABELS * (1 + halves)):
        raise ConfigurationError(
            f"{len(examples)} examples, where {needed} or more are needed; 100 to 300 are usual. "
            "Nothing was asked."
        )
    return examples


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The answers to choose from, where the references are a few short texts that come again:
    they want temperature 0 and to be named in the system message."""
    counts = Counter(e.reference for e in examples if isinstance(e.reference, str))
    few = 0 < len(counts) <= MOST_LABELS and counts.total() >= 2 * len(counts)
    return tuple(sorted(counts)) if few and max(map(len, counts)) <= SHORT else ()


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
            f"shots={shots}: give a whole number from 0 on; only {len(in_turn)} examples have a "
            "reference to show."
        )
    shown: list[AnyMessage] = []
    for example in in_turn[:shots]:
        shown += [HumanMessage(example.question), AIMessage(str(example.reference))]
    ids, others = {example.id for example in in_turn[:shots]}, []
    for example in examples:
        if example.id not in ids:
            first = int(example.messages[0].type == "system")
            put = (*example.messages[:first], *shown, *example.messages[first:])
            others.append(replace(example, messages=put))
    return others


def expected_usd(
    examples: Sequence[Example], pricing: Pricing, *, max_tokens: int | None = None, calls: int = 1
) -> Decimal | None:
    """Roughly the dollars of asking a model, `calls` times an example, from the length of texts
    and `max_tokens`; None when it has no token price."""
    total = Decimal(0)
    for example in examples:
        text = sum(len(str(message.text)) for message in example.messages)
        read, written = text // CHARACTERS_PER_TOKEN + 16, max_tokens or ASSUMED_OUTPUT_TOKENS
        cost = pricing.cost(Usage(input_tokens=read, output_tokens=written), None)
        if cost is None:
            return None
        total += cost * calls
    return total


# Recording ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Collected:
    """Progress of recording: of `total` examples some were there before (`skipped`), nothing says
    which answer to some is right (`unlabelled`), and others failed, by id; `spent_usd` is of those
    that were `written`, None where a part is unknown, and `in_a_row` failed last.
    """

    total: int
    skipped: int = 0
    written: int = 0
    unlabelled: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    spent_usd: Decimal | None = Decimal(0)
    seconds: float = 0.0
    in_a_row: int = 0

    def __str__(self) -> str:
        left = self.total - self.skipped - self.written - self.unlabelled - len(self.failures)
        spent, more = "?", "?"
        if self.spent_usd is not None:
            spent = f"${self.spent_usd:.4f}"
            more = f"${self.spent_usd / max(self.written, 1) * left:.4f}"
        said = f"{self.total - left} of {self.total}, {spent} spent"
        if not self.written:
            return said
        return f"{said}, {self.seconds / self.written * left:.0f} s and {more} left"


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

    The policy of the kernel is `AlwaysEscalate`. With `agree_with_large` the large model's answer
    counts as right: there are no references.

    Raises:
        ConfigurationError: the models are one, a reference cannot be read, or the file holds
            answers to other questions, or of other models or settings.
        CascadeError: `GIVE_UP_AFTER` examples in a row failed.
    """
    recorder = _Recorder(kernel, scorer, agree_with_large)
    with TranscriptWriter(path) as writer:
        await recorder.check_references(examples)
        recorder.check_resumable(examples, writer)
        queue = [example for example in examples if example.id not in writer.ids]
        done = Collected(len(examples), skipped=len(examples) - len(queue))
        began = time.monotonic()

        async def work() -> None:
            while queue:
                example = queue.pop(0)
                try:
                    row, spent = await recorder.answer(example, path.stem)
                except CascadeError as error:
                    done.failures[example.id] = str(error)
                    done.in_a_row += 1
                else:
                    done.in_a_row = 0
                    done.unlabelled += row is None
                    if row is not None:
                        writer.write(row)
                        done.written += 1
                        costs = (done.spent_usd, spent)
                        known = None not in costs
                        done.spent_usd = sum(filter(None, costs), Decimal(0)) if known else None
                done.seconds = time.monotonic() - began
                progress(done)
                if done.in_a_row >= GIVE_UP_AFTER:
                    raise CascadeError(
                        f"{done.in_a_row} examples in a row failed, and no more are asked; what "
                        f"was recorded is kept. The last one: {list(done.failures.values())[-1]}"
                    )

        workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(queue)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return done


class _Recorder:
    """Collector that asks both models about examples, and judges the answers."""

    def __init__(self, kernel: Kernel, scorer: Scorer, agree_with_large: bool) -> None:
        self._kernel, self._scorer, self._agree = kernel, scorer, agree_with_large
        tiers = {"small": kernel.tiers[0], "large": kernel.tiers[-1]}
        self._small, self._large = (tier.model.name for tier in tiers.values())
        if self._small == self._large:
            raise ConfigurationError(
                f"small and large are both {self._small}: transcripts tell answers apart by the "
                "model's name, so two different ones are needed."
            )
        parts = kernel.parts
        costless = {signal.name for signal in parts.signals} <= {*SIGNALS}
        if costless and not kernel.tiers[0].model.returns_logprobs:
            raise ConfigurationError(
                f"{self._small} returns no log-probabilities, so that no draft would have a "
                "confidence: ask it one question more, signals=['p_true'] (--signals p_true)."
            )
        self._made_with: dict[str, JsonValue] = {
            **{name: task_hash(parts.settings or {}, tier) for name, tier in tiers.items()},
            "signals": [f"{s.name} {s.wording}".strip() for s in parts.signals],
            "scorer": f"{scorer.spec}{', agreement with large' * agree_with_large}",
        }

    def _settings_of(self, example: Example) -> dict[str, JsonValue]:
        asked = example.messages
        return {**self._made_with, "system": system_hash(asked), "shots": [*shots_of(asked)]}

    async def check_references(self, examples: Sequence[Example]) -> None:
        """Find a reference that the scorer cannot read before anything is paid."""
        for example in () if self._agree or not self._scorer.computes else examples:
            try:
                if example.reference is not None:
                    await self._scorer.score("", example.reference, question=example.question)
            except InputError as error:
                raise ConfigurationError(f"example {example.id!r}: {error}") from error

    def check_resumable(self, examples: Sequence[Example], writer: TranscriptWriter) -> None:
        """Refuse a file that was made with other models, questions or settings."""
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

    async def answer(
        self, example: Example, dataset: str
    ) -> tuple[Transcript | None, Decimal | None]:
        """The transcript, none where nothing says whether an answer is right, and dollars."""
        if not self._agree and not example.labels and example.reference is None:
            return None, None
        kernel, run = self._kernel, self._kernel.begin(list(example.messages))
        runtime = CascadeRuntime(kernel, show="final")
        while run.step not in ("expert", "end"):
            await kernel.advance(run, runtime)
        draft = run.draft
        said: dict[str, Any] = {"features": dict(run.signals), "confidence": run.confidence}
        while draft is not None and run.step != "end":
            await kernel.advance(run, runtime)
        large = None if run.degraded else run.draft  # degraded: it would be the draft's
        if draft is None or large is None:
            why = "nothing was decided." if run.decision is None else run.decision.reason
            which = "large answer" if draft else "draft"
            raise ConfigurationError(f"no {which} to be recorded: {why}")
        reference = large.text if self._agree else example.reference
        scores = [await self._score(example, one.text, reference) for one in (draft, large)]
        if any(score.value is None for score in scores):
            return None, None
        calls = [entry for entry in run.entries if entry.model is not None]

        def outcome(answer: Completion, score: Score, node: str, **more: Any) -> Outcome:
            cost: Any = LedgerView([call for call in calls if call.node == node]).cost_usd
            return Outcome(
                correct=score.value or 0.0,
                input_tokens=answer.usage.input_tokens,
                output_tokens=answer.usage.output_tokens,
                output=answer.transcript,
                latency_ms=answer.latency_ms,
                cost_usd=cost,
                **more,
            )

        said["check_cost_usd"] = LedgerView([c for c in calls if c.node == "self_check"]).cost_usd
        made_with: dict[str, Any] = {MADE_WITH: self._settings_of(example)}
        row = Transcript(
            dataset=dataset,
            id=example.id,
            prompt=example.question,
            reference=reference,
            models={
                self._small: outcome(draft, scores[0], "draft", **said),
                self._large: outcome(large, scores[1], "expert"),
            },
            **made_with,
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


# Fitting --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration as it decides online, with its certificates, those that were refused, and what
    this way of calibrating is worth on rows left out of it; None of too few rows to say."""

    calibration: Calibration
    refusals: tuple[Refusal, ...]
    evaluation: Evaluation | None


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

    With `max_harms`, bounds on P(accepted and wrong) to certify, one half of the rows fits the
    calibration and the other proves it; `delta` is the chance that a certificate does not hold.

    Raises:
        ConfigurationError: no row has both models, too few rows, or a bound that is none.
    """
    pair = pair_of(records, made_for.small.name, made_for.large.name)
    features = [draft.features for draft in pair.outcomes(pair.small)]

    def made(rows: Rows) -> Calibration:
        rights = pair.small_correct[rows], pair.large_correct[rows]
        return calibrating.calibrate([features[i] for i in rows], *rights, signals, made_for)

    def choose(part: Pair, rows: Rows) -> Ladder:
        return climb([shape_of_calibration(made(rows), part, rows)])

    n, options = len(pair), options or Options()
    options = options.model_copy(update={"repeats": options.repeats or REPEATS})
    evaluation = evaluate(pair, options, choose=choose) if n >= LEAST_ROWS else None
    if not max_harms:
        return Fitted(made(np.arange(n)), (), evaluation)
    if n < 2 * LEAST_LABELS:
        raise ConfigurationError(
            f"{n} labelled drafts: with max_harm one half of them fits and the other proves, which "
            f"needs {2 * LEAST_LABELS} or more."
        )
    order = np.random.default_rng(0).permutation(n)
    calibration, proving = made(np.sort(order[: n // 2])), order[n // 2 :]
    until, raw = datetime.now(UTC) + timedelta(days=VALID_DAYS), not calibration.calibrated
    said = np.full(len(proving), np.nan)  # nothing would notice when the scale of a score moves
    for at, row in enumerate(() if raw else proving):
        if estimate := calibration.estimate(features[row], calibration.signals):
            said[at] = estimate.confidence
    correct = pair.small_correct[proving]
    found = [certify(said, correct, max_harm=h, delta=delta, valid_until=until) for h in max_harms]
    refused = (
        r.model_copy(update={"halved": True, "raw": raw}) for r in found if isinstance(r, Refusal)
    )
    proved = tuple(c for c in found if not isinstance(c, Refusal))
    calibration = calibration.model_copy(update={"certificates": proved})
    return Fitted(calibration, tuple(refused), evaluation)


async def calibrate(
    kernel: Kernel,
    path: Path,
    examples: Sequence[Example] = (),
    *,
    labels: Any = "references",
    **options: Any,
) -> Fitted:
    """Fit a calibration to recorded answers, with the `options` of `fit`, and say what it is worth.

    It is bound to the models and settings, and to what stands before the question of all examples.

    Raises:
        ConfigurationError: too few rows, or they were made with other settings of the small model.
    """
    small, large = kernel.tiers[0], kernel.tiers[-1]
    rows = rows_of_pair(read_transcripts(path), small.model.name, large.model.name)
    if any(row.models[small.model.name].steps for row in rows):
        rows = with_features(rows)
    task = task_hash(kernel.parts.settings or {}, small)
    systems: set[str | None] = {system_hash(example.messages) for example in examples}
    shots: set[Any] = {shots_of(example.messages) for example in examples}
    for row in () if examples else rows:
        made_with = (row.model_extra or {}).get(MADE_WITH, {})
        if made_with.get("small", task) != task:
            raise ConfigurationError(
                f"{path}: example {row.id!r} was answered with other settings of the small "
                "model: give the same --max-tokens and --temperature as it was recorded with."
            )
        systems.add(made_with.get("system"))
        shots.add(tuple(made_with.get("shots") or ()) or None)
    pair = [ModelIdentity(name=t.model.name, digest=await t.model.digest()) for t in (small, large)]
    binding = MadeFor(
        small=pair[0],
        large=pair[1],
        task_hash=task,
        system_hash=systems.pop() if len(systems) == 1 else None,
        labels=labels,
        shots=shots.pop() if len(shots) == 1 else None,
    )
    signals = [(signal.name, signal.calls) for signal in kernel.parts.signals]
    return fit(rows, binding, signals, **options)


async def calibrate_examples(
    kernel: Kernel, examples: Sequence[Example], scorer: Scorer, **options: Any
) -> Fitted:
    """Ask both models about examples, and calibrate on the answers; nothing is kept on disk."""
    with TemporaryDirectory(prefix="cascade-") as folder:
        path = Path(folder) / "examples.jsonl"
        await record(kernel, examples, path, scorer)
        return await calibrate(kernel, path, examples, **options)


# What is written ------------------------------------------------------------------------------


def write_artefacts(
    folder: Path, fitted: Fitted, tiers: Sequence[OpenTier], examples: Sequence[Example] = ()
) -> dict[str, Path]:
    """Write the calibration, a page, and a `cascade.yaml` that `cascade serve` takes, with the
    messages that stood before the question of every example; the files by what they are.

    Raises:
        ConfigurationError: too few rows for a verdict, or the folder cannot be written.
    """
    if (found := fitted.evaluation) is None:
        raise ConfigurationError(
            f"{fitted.calibration.quality.n} labelled drafts with both models are too few to say "
            f"what a cascade is worth: {LEAST_ROWS} or more are needed, and {FAIR_TEST} for a fair "
            "test."
        )
    files = {
        "calibration": folder / "calibration.json",
        "page": folder / "verdict.html",
        "configuration": folder / "cascade.yaml",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fitted.calibration.save(files["calibration"])
        files["page"].write_text(to_page(to_document(found)), encoding="utf-8")
        text = _configuration(tiers, found, examples)
        files["configuration"].write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written ({error.strerror}).") from error
    return files


def rule_of(found: Evaluation | None, tiers: Sequence[OpenTier]) -> tuple[str, float] | None:
    """Option of a cascade, and its value, that decides as was recommended; None where no saving
    was shown."""
    if found is None or found.verdict not in ("cascade", "router", "small"):
        return None
    point = found.recommended
    if point.price_of_error_usd is None:
        return None
    if tiers and not has_price(tiers[-1].pricing):
        # A price by the hour tells what an answer costs when it is there.
        return "escalation_budget", float(f"{point.escalated:.4g}")
    return "price_of_error", float(f"{point.price_of_error_usd:.6g}")


def _configuration(
    tiers: Sequence[OpenTier], found: Evaluation, examples: Sequence[Example]
) -> str:
    """The service's configuration, with prices that the user has set."""
    rule, prompt = rule_of(found, tiers), _prompt_of(examples)
    cascade: dict[str, Any] = {
        "tiers": [_tier(tier) for tier in tiers],
        **({"prompt": prompt} if prompt else {}),
        "calibrator": "calibration.json",
        **({"mode": "shadow"} if rule is None else dict([rule])),
        "audits": 0.05,
    }
    made = "Made by `cascade try`"
    if any(str(tier["model"]).startswith("replay:") for tier in cascade["tiers"]):
        made = "A recording answers what was recorded alone: `cascade try` takes your models"
    head = f"# {made}; `cascade serve cascade.yaml` runs it.\n"
    if rule is None:
        head += "# No saving was shown: the small model is measured beside the large one.\n"
    whole = {"ledger": "sqlite:///ledger.db", "cascades": {"tried": cascade}}
    return head + yaml.safe_dump(whole, sort_keys=False, width=math.inf)


def _tier(tier: OpenTier) -> dict[str, Any]:
    asked, price = tier.settings.model, None
    if isinstance(tier.pricing, Price):
        price = tier.pricing.model_dump(mode="json", exclude_none=True, exclude={"source"})
    # The server that was asked, so that the one that is served is no other; where a password is
    # part of the address, the variable that has it.
    variable = {"openai": "OPENAI_BASE_URL", "ollama": "OLLAMA_HOST"}.get(tier.model.provider)
    server = tier.model.server if variable else None
    told = {
        "name": tier.name,
        "model": asked if isinstance(asked, str) else tier.model.name,
        "price": price,
        "base_url": f"${{{variable}}}" if server and "@" in server else server,
        "max_tokens": tier.max_tokens,
        "temperature": tier.settings.temperature,
        "options": dict(tier.settings.options) or None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _prompt_of(examples: Sequence[Example]) -> list[dict[str, str]]:
    """The messages before the question, where they are those of all examples."""
    before = [[(m.type, str(m.text)) for m in example.messages[:-1]] for example in examples]
    roles = {"human": "user", "ai": "assistant", "system": "system"}
    same = before and all(one == before[0] for one in before)
    if not same or any(kind not in roles for kind, _ in before[0]):  # tools' results have no place
        return []
    return [{"role": roles[kind], "content": t.replace("${", "$${")} for kind, t in before[0]]

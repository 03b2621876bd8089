"""Calibration of a cascade: ask both models about examples, fit, say what it is worth, write it. A
recording goes on after an interrupt: what was recorded is never asked again."""

from __future__ import annotations

import asyncio
import errno
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from shutil import copymode
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from langchain_core.messages import AIMessage, HumanMessage

from cascade._numbers import to_number
from cascade.confidence import calibrating
from cascade.confidence.base import shots_of, system_hash
from cascade.confidence.calibration import Calibration, MadeFor, ModelIdentity
from cascade.confidence.signals import to_signals
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.evaluation.features import Pair, Rows
from cascade.evaluation.ladder import shape_of
from cascade.evaluation.recordings import Example, Outcome, Transcript, read_transcripts
from cascade.evaluation.render import to_page
from cascade.evaluation.scorers import Scorer, as_scorer
from cascade.evaluation.verdict import LEAST_ROWS, Evaluation, Options, evaluate, to_document
from cascade.kernel import Kernel
from cascade.ledger.entries import LedgerView
from cascade.ledger.prices import Price, has_price
from cascade.middleware.calibrated import task_hash
from cascade.models.openai import whole
from cascade.policies import Refusal, ThresholdPolicy, certify
from cascade.questions import to_messages
from cascade.run import CascadeRuntime, Parts
from cascade.state import Certificate
from cascade.tiers import OpenTier

SIGNALS = ("logprobs", "text", "prompt")
"""Signals of a calibration where none are named; all are free."""

GIVE_UP_AFTER = 20
"""Failures in a row: the set-up is wrong, or a server is gone, and each question costs money."""


def to_examples(given: Sequence[Any]) -> list[Example]:
    """Examples of `(question, reference)` pairs, or dicts with `question` and `reference`; a
    `ConfigurationError` where one is neither."""
    examples = []
    for number, item in enumerate(given if isinstance(given, Iterable) else [given]):
        match item:
            case {"question": question, "reference": reference} | (question, reference):
                examples.append(Example(str(number), tuple(to_messages(question)), reference))
            case _:
                told = f"example {number} is {item!r}"
                raise ConfigurationError(f"{told}: give (question, reference) pairs.")
    return examples


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The answers to choose from, where the references are at most 30 texts of 40 characters that
    come again: they want temperature 0 and to be named in the system message."""
    counts = Counter(e.reference for e in examples if isinstance(e.reference, str))
    few = 0 < len(counts) <= 30 and counts.total() >= 2 * len(counts)
    return tuple(sorted(counts)) if few and max(map(len, counts)) <= 40 else ()


def with_shots(examples: Sequence[Example], shots: int) -> list[Example]:
    """The other examples, each with `shots` of them before its question, as many of each answer
    as there are.

    Raises:
        ConfigurationError: fewer examples with a reference than shots.
    """
    same = defaultdict[str, list[Example]](list)
    for example in examples:
        if example.reference is not None:
            same[str(example.reference)].append(example)
    in_turn = [e for one_of_each in zip_longest(*same.values()) for e in one_of_each if e]
    if not 0 <= shots <= len(in_turn):
        told = f"shots={shots}: give a whole number from 0 on"
        raise ConfigurationError(f"{told}; only {len(in_turn)} examples have a reference to show.")
    shown, left = in_turn[:shots], []
    turns = [m for e in shown for m in (HumanMessage(e.question), AIMessage(str(e.reference)))]
    for example in examples:
        if example not in shown:
            system = int(example.messages[0].type == "system")
            asked = (*example.messages[:system], *turns, *example.messages[system:])
            left.append(replace(example, messages=asked))
    return left


@dataclass(slots=True)
class Collected:
    """Progress of recording: of `total` examples some were there before (`skipped`), some have no
    known right answer (`unlabelled`), and some failed, by id, `in_a_row` last; `spent_usd` is of
    those that were `written`, None where a part is unknown."""

    total: int
    skipped: int = 0
    written: int = 0
    unlabelled: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    spent_usd: Decimal | None = Decimal(0)
    in_a_row: int = 0
    began: float = field(default_factory=time.monotonic, repr=False)

    def __str__(self) -> str:
        left = self.total - self.skipped - self.written - self.unlabelled - len(self.failures)
        usd, each = self.spent_usd, left / max(self.written, 1)
        spent, more = ("?" if x is None else f"${x:.4f}" for x in (usd, usd and float(usd) * each))
        done = f"{self.total - left} of {self.total}, {spent} spent"
        return f"{done}, {(time.monotonic() - self.began) * each:.0f} s and {more} left"


class AnswerRecorder:
    """Recorder of what the first and the last model answer to examples, as transcripts in a file.
    Where they `agree`, the last model's answer counts as right: there are no references.

    Raises:
        ConfigurationError: the models are one, or no draft would have a confidence.
    """

    def __init__(self, kernel: Kernel, path: Path, scorer: Scorer, *, agree: bool = False) -> None:
        self.kernel, self.path, self.scorer, self.agree = kernel, path, scorer, agree
        pair, signals = (kernel.tiers[0], kernel.tiers[-1]), kernel.parts.signals
        self.models = [tier.model.name for tier in pair]
        if len(set(self.models)) == 1:
            told = f"small and large are both {self.models[0]}"
            raise ConfigurationError(f"{told}: give two, whose answers their names tell apart.")
        free = {signal.name for signal in signals} <= {*SIGNALS}
        if free and not pair[0].model.returns_logprobs:
            told = f"{self.models[0]} returns no log-probabilities: drafts would have no confidence"
            raise ConfigurationError(f"{told}. Give signals=['p_true'] (--signals p_true).")
        self.made_with: dict[str, Any] = {
            "models": self.models,
            "settings": [task_hash(kernel.parts.settings, tier) for tier in pair],
            "signals": [f"{s.name} {s.wording}".strip() for s in signals],
            "scorer": f"{scorer.spec}{', agreement with large' * agree}",
        }

    async def record(
        self,
        examples: Sequence[Example],
        *,
        least: int = 0,
        concurrency: int = 8,
        progress: Callable[[Collected], None] = lambda done: None,
    ) -> Collected:
        """Ask about those of the examples, `least` or more, that are not in the file.

        Raises:
            ConfigurationError: too few examples, a reference cannot be read, or the file holds
                answers to other questions, or of other models or settings.
            CascadeError: `GIVE_UP_AFTER` examples in a row failed.
            OSError: the file cannot be written, or another process records to it.
        """
        if len(examples) < least:
            told = f"{len(examples)} examples, where {least} or more are needed"
            raise ConfigurationError(f"{told}; 100 to 300 are usual. Nothing was asked.")
        there = {row.id: row for row in read_transcripts(self.path)} if self.path.exists() else {}
        for example in examples:
            await self._check(example, there.get(example.id))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Anew, whole or not at all: a line that was cut off must not join the next one.
        place = self.path.resolve()
        draft = place.with_name(f"{place.name}.new")
        draft.touch()
        if place.exists():  # what others must not read stays so, from the first word on
            copymode(place, draft)
        draft.write_text("".join(row.to_line() for row in there.values()), encoding="utf-8")
        self._size = draft.replace(place).stat().st_size
        new = [example for example in examples if example.id not in there]
        left = [e for e in new if self.agree or e.labels or e.reference is not None]
        done, queue = Collected(len(examples), skipped=len(examples) - len(new)), iter(left)
        done.unlabelled = len(new) - len(left)

        async def work() -> None:
            for example in queue:
                try:
                    await self._answer(example, done)
                    done.in_a_row = 0
                except CascadeError as error:
                    done.failures[example.id] = str(error)
                    done.in_a_row += 1
                progress(done)
                if done.in_a_row >= GIVE_UP_AFTER:
                    told = f"{done.in_a_row} examples in a row failed, and no more are asked"
                    why = done.failures[example.id]
                    raise CascadeError(f"{told}; what was recorded is kept. The last one: {why}")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in left[:concurrency]:
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return done

    def _settings_of(self, example: Example) -> dict[str, Any]:
        asked = example.messages
        return {**self.made_with, "system": system_hash(asked), "shots": [*shots_of(asked)]}

    async def _check(self, example: Example, row: Transcript | None) -> None:
        """Refuse what cannot be read or continued before anything is paid."""
        try:
            if self.scorer.computes and not self.agree and example.reference is not None:
                await self.scorer.score("", example.reference, question=example.question)
        except InputError as error:
            raise ConfigurationError(f"example {example.id!r}: {error}") from error
        if row is None:
            return
        asked = {**self._settings_of(example), "question": example.question}
        known = {**row.made_with, "question": row.prompt}
        if other := [name for name in asked if known.get(name) != asked[name]]:
            by, what = " and ".join(row.models), ", ".join(other)
            told = f"{self.path} cannot be continued: in its example {row.id!r}, {row.prompt!r:.60}"
            told += f", answered by {by}, something else was asked ({what})"
            raise ConfigurationError(f"{told}. Delete it, or record to another file.")

    async def _answer(self, example: Example, done: Collected) -> None:
        """Ask both models, and write the transcript if something says whether they are right."""
        kernel, run = self.kernel, self.kernel.begin(list(example.messages))
        runtime = CascadeRuntime(kernel, show="final")
        while run.step not in ("verify", "expert", "end"):
            await kernel.advance(run, runtime)
        draft, said = run.draft, dict[str, Any](features={**run.signals}, confidence=run.confidence)
        if draft is not None:
            run.step = "expert"  # whatever would be decided: both are recorded
            await kernel.advance(run, runtime)
        if draft is None or run.draft is None or run.degraded:
            why = run.decision and run.decision.reason
            raise ConfigurationError(f"not both models have answered: {why}")
        reference = run.draft.text if self.agree else example.reference
        ledger, models = LedgerView(run.entries), dict[str, Outcome]()
        costs: Any = {node: view.cost_usd for node, view in ledger.by_node().items()}
        said["check_cost_usd"] = costs.get("self_check", 0.0)
        asked = zip(self.models, ("draft", "expert"), (draft, run.draft), (said, {}), strict=True)
        for name, node, answer, known in asked:
            correct = await self._score(example, answer.text, reference)
            if correct is None:
                done.unlabelled += 1
                return
            models[name] = Outcome(
                correct=correct,
                input_tokens=answer.usage.input_tokens,
                output_tokens=answer.usage.output_tokens,
                output=whole(answer.transcript),
                latency_ms=answer.latency_ms,
                cost_usd=costs[node],
                **known,
            )
        row = Transcript(
            dataset=self.path.stem,
            id=example.id,
            prompt=example.question,
            reference=whole(reference),
            models=models,
            made_with=self._settings_of(example),
        )
        with self.path.open("ab") as file:
            if file.tell() != self._size:
                told = "another process records here; wait for it, or give another file"
                raise FileExistsError(errno.EEXIST, told, str(self.path))
            file.write(row.to_line().encode())
            self._size = file.tell()
        done.written += 1
        if done.spent_usd is not None:  # a judge's cost is not known
            spent = ledger.cost_usd if self.scorer.computes else None
            done.spent_usd = None if spent is None else done.spent_usd + spent

    async def _score(self, example: Example, answer: str, reference: Any) -> float | None:
        if (judged := example.labels.get(answer.strip())) is not None:
            return float(judged)
        if reference is None or (self.agree and not str(reference).strip()):
            return None
        if self.agree and answer == reference:
            return 1.0
        return await self.scorer.score(answer, reference, question=example.question)


@dataclass(frozen=True, slots=True)
class CalibrationFit:
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
) -> CalibrationFit:
    """Calibrate on recorded answers, and say what that is worth.

    With `max_harms`, bounds on P(accepted and wrong) to certify, one half of the rows fits the
    calibration and the other proves it; `delta` is the chance that a certificate does not hold.

    Raises:
        ConfigurationError: no row has both models, too few rows, or a bound that is none.
    """
    pair = Pair(records, made_for.small.name, made_for.large.name)
    features = pair.features

    def made(rows: Rows) -> Calibration:
        rights = pair.small_correct[rows], pair.large_correct[rows]
        return calibrating.calibrate([features[i] for i in rows], *rights, signals, made_for)

    n, options, evaluation = len(pair), options or Options(), None
    if n >= LEAST_ROWS:  # each of five folds takes a tenth of a second
        options = options.model_copy(update={"repeats": options.repeats or 3})
        evaluation = evaluate(
            pair, options, choose=lambda part, rows: [shape_of(made(rows), part, rows)]
        )
    if not max_harms:
        return CalibrationFit(made(np.arange(n)), (), evaluation)
    if n < (least := 2 * calibrating.LEAST_LABELS):
        told = f"{n} labelled drafts: with max_harm one half fits and the other proves"
        raise ConfigurationError(f"{told}, which needs {least} or more.")
    order = np.random.default_rng(0).permutation(n)
    calibration, proving = made(np.sort(order[: n // 2])), order[n // 2 :]
    said = [calibration.estimate(features[i], calibration.signals) for i in proving]
    known = [math.nan if one is None else one.confidence for one in said]
    until = datetime.now(UTC) + timedelta(days=90)  # traffic drifts
    how: Any = {"delta": delta, "valid_until": until}
    proved, refused = list[Certificate](), list[Refusal]()
    for harm in max_harms:
        found = certify(known, pair.small_correct[proving], max_harm=harm, **how)
        if not calibration.calibrated:  # nothing would notice when the scale of a raw score moves
            told = "a raw score gets no certificate, and these labels do not show a probability"
            refused.append(Refusal(f"harm at {harm:.1%} is not certified: {told}"))
        elif isinstance(found, Refusal):
            needed = 2 * (found.labels_needed or 0)
            told = f"{found.reason}; as many again fit the calibrator, {needed} in all"
            refused.append(Refusal(told, needed))
        else:
            proved.append(found)
    calibration = calibration.model_copy(update={"certificates": tuple(proved)})
    return CalibrationFit(calibration, tuple(refused), evaluation)


async def calibrate(
    kernel: Kernel, path: Path, *, labels: Any = "references", **options: Any
) -> CalibrationFit:
    """Fit a calibration to recorded answers, with the `options` of `fit`, and say what it is worth.

    It is bound to the models and settings, and to what stood before the question of all rows.

    Raises:
        ConfigurationError: too few rows, or they were made with other settings of the small model.
    """
    pair, rows = (kernel.tiers[0], kernel.tiers[-1]), list(read_transcripts(path))
    task = task_hash(kernel.parts.settings, pair[0])
    if any(row.made_with.get("settings", [task])[0] != task for row in rows):
        told = f"{path} was recorded with other settings of the small model"
        how = "give the same --max-tokens and --temperature (a cascade.yaml beside it has them)"
        raise ConfigurationError(f"{told}: {how}.")
    systems: Any = {row.made_with.get("system") for row in rows}
    shots: Any = {tuple(row.made_with.get("shots", ())) or None for row in rows}
    small, large = [ModelIdentity(name=t.model.name, digest=await t.model.digest()) for t in pair]
    binding = MadeFor(
        small=small,
        large=large,
        task_hash=task,
        system_hash=systems.pop() if len(systems) == 1 else None,
        labels=labels,
        shots=shots.pop() if len(shots) == 1 else None,
    )
    return fit(rows, binding, [(s.name, s.calls) for s in kernel.parts.signals], **options)


async def calibrate_examples(
    parts: Parts, given: Sequence[Any], scorer: Any, **options: Any
) -> CalibrationFit:
    """Ask both models of a cascade with these parts about examples, `(question, reference)` pairs,
    and calibrate on the answers, with the `options` of `fit`; nothing is kept on disk."""
    harms = options.get("max_harms", ())
    for name, share in [*(("max_harm", harm) for harm in harms), ("delta", options["delta"])]:
        to_number(name, share, above=0, below=1)
    examples, signals = to_examples(given), parts.signals or to_signals(SIGNALS)
    kernel = Kernel(
        Parts(parts.tiers, ThresholdPolicy(), signals, store=parts.store, settings=parts.settings)
    )
    with TemporaryDirectory(prefix="cascade-") as folder:
        path = Path(folder) / "examples.jsonl"
        recorder = AnswerRecorder(kernel, path, as_scorer(scorer))
        await recorder.record(examples, least=calibrating.LEAST_LABELS * (2 if harms else 1))
        return await calibrate(kernel, path, **options)


def write_artefacts(
    folder: Path,
    fitted: CalibrationFit,
    tiers: Sequence[OpenTier],
    examples: Sequence[Example] = (),
) -> dict[str, Path]:
    """Write the calibration, a page, and a `cascade.yaml` that `cascade serve` takes, with the
    messages that stood before the question of every example; the files by what they are.

    Raises:
        ConfigurationError: too few rows for a verdict.
    """
    if (found := fitted.evaluation) is None:
        told = f"{fitted.calibration.quality.n} labelled drafts are too few to judge a cascade"
        raise ConfigurationError(f"{told}: {LEAST_ROWS} or more are needed.")
    before = [[(m.type, str(m.text)) for m in example.messages[:-1]] for example in examples]
    roles = {"human": "user", "ai": "assistant", "system": "system"}
    cascade: dict[str, Any] = {"tiers": [_tier(tier) for tier in tiers]}
    if before and all(one == before[0] and {kind for kind, _ in one} <= {*roles} for one in before):
        turns = [(roles[kind], text.replace("${", "$${")) for kind, text in before[0]]
        cascade["prompt"] = [{"role": role, "content": text} for role, text in turns]
    cascade["calibrator"] = "calibration.json"
    head = "# Made by `cascade try`; `cascade serve cascade.yaml` runs it.\n"
    if rule := rule_of(found, tiers):
        cascade |= dict([rule])
    else:
        cascade["mode"] = "shadow"
        head += "# No saving was shown: the small model is measured beside the large one.\n"
    whole = {"ledger": "sqlite:///ledger.db", "cascades": {"tried": {**cascade, "audits": 0.05}}}
    written = folder / "calibration.json", folder / "verdict.html", folder / "cascade.yaml"
    fitted.calibration.save(written[0])
    written[1].write_text(to_page(to_document(found)), encoding="utf-8")
    served = head + yaml.safe_dump(whole, sort_keys=False, width=math.inf)
    written[2].write_text(served, encoding="utf-8")
    return dict(zip(("calibration", "page", "configuration"), written, strict=True))


def rule_of(found: Evaluation | None, tiers: Sequence[OpenTier]) -> tuple[str, float] | None:
    """Option of a cascade, and its value, that decides as was recommended; None where no saving
    was shown."""
    if found is None or found.verdict not in ("cascade", "router", "small"):
        return None
    if (price := found.recommended.price_of_error_usd) is None:
        return None
    if tiers and not has_price(tiers[-1].pricing):  # by the hour: known when the answer is there
        return "escalation_budget", float(f"{found.recommended.escalated:.4g}")
    return "price_of_error", float(f"{price:.6g}")


def _tier(tier: OpenTier) -> dict[str, Any]:
    price, server = None, tier.model.server
    if isinstance(tier.pricing, Price):
        price = tier.pricing.model_dump(mode="json", exclude_none=True, exclude={"source"})
        price |= price.pop("per_million", {})
    # The server that was asked, so that the one that is served is no other; one with a password in
    # its address stays in the variable that has it.
    if tier.model.provider not in ("openai", "ollama") or "@" in (server or ""):
        server = None
    told = {
        "name": tier.name,
        "model": str(tier.settings.model),
        "price": price,
        "base_url": server,
        "max_tokens": tier.max_tokens,
        "temperature": tier.settings.temperature,
        "options": dict(tier.settings.options) or None,
    }
    return {key: value for key, value in told.items() if value is not None}

"""Verdicts and calibrations: `cascade evaluate`, `calibrate`, `try` and `demo`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cascade.cli.console import INTERRUPTED, MOST_TOLD, busy, fail, give, say
from cascade.cli.options import (
    EMBEDDED,
    CalibrationFile,
    File,
    Models,
    Page,
    PriceOfError,
    Small,
    System,
    Text,
    Texts,
    must_be_file,
    need,
    spread,
    write_page,
)
from cascade.errors import CascadeError, ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.calibrate import Collected, Fitted
    from cascade.evaluation.recordings import Example
    from cascade.evaluation.verdict import Evaluation

SHARE: dict[str, Any] = {"min": 0.001, "max": 0.999}

MaxHarm = Annotated[
    list[float] | None,
    Option(help="Certify P(accepted and wrong) at most this; repeatable.", **SHARE),
]
Delta = Annotated[float, Option(help="Chance that a certificate does not hold.", **SHARE)]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted."""

    within: Annotated[
        float, Option(min=0, max=0.99, help="Quality that may be lost: 0.01 is a point.")
    ] = 0.01
    caution: Annotated[
        float, Option(min=0, max=9, help="Standard errors of the loss to stay below that.")
    ] = 0.0
    price_of_error: PriceOfError = None


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples, and how both models are asked about them."""

    question: Annotated[Text, Option(help="Column of the questions.")] = None
    label: Annotated[Text, Option(help="Column of the right answers.")] = None
    system: System = None
    scorer: Annotated[str, Option(help="exact, contains, choice, numeric, json, …")] = "exact"
    signals: Annotated[Texts, Option(help="Take this signal; repeatable.")] = None
    concurrency: Annotated[
        int | None, Option(min=1, help="Examples under way at once: 8, or 2 of Ollama's.")
    ] = None
    yes_up_to: Annotated[float, Option(min=0, help="Dollars to spend without asking.")] = 0.0
    yes: Annotated[bool, Option("--yes", help="Do not ask before money is spent.")] = False

    def read(self, path: Path) -> list[Example]:
        """The examples of a file."""
        from cascade.evaluation.recordings import read_examples  # noqa: PLC0415 - heavy

        columns = {"question": self.question, "label": self.label}
        return read_examples(path, **columns, system=self.system)

    def recording(self) -> dict[str, Any]:
        """Options of a cascade that asks both models every question."""
        from cascade.calibrate import (  # noqa: PLC0415 - heavy
            GIVE_UP_AFTER,
            SIGNALS,
            AlwaysEscalate,
        )
        from cascade.middleware import Breaker  # noqa: PLC0415

        # Every example is wanted: a server is asked until it is plain that it is gone.
        breaker = Breaker(GIVE_UP_AFTER)
        signals = self.signals or list(SIGNALS)
        return {"policy": AlwaysEscalate(), "signals": signals, "middleware": [breaker]}


@spread
def evaluate(
    file: Annotated[File, Argument(help="Transcripts: JSON lines, plain or gzip.")] = None,
    *,
    fit: Annotated[File, Option(help="The transcripts again, beside --test.")] = None,
    test: Annotated[File, Option(help="Other transcripts, for the figures alone.")] = None,
    small: Annotated[
        Text, Option(envvar="CASCADE_SMALL", help="Model that drafts, by its name.")
    ] = None,
    large: Annotated[
        Text, Option(envvar="CASCADE_LARGE", help="Model that is asked in doubt.")
    ] = None,
    calibration: CalibrationFile = None,
    checked: Annotated[
        bool, Option("--checked", help="A check shows which runs of the small agent failed.")
    ] = False,
    goal: Goal,
    html: Page = None,
) -> None:
    """Replay recorded answers: what would a cascade have cost, and how right would it have been?"""
    need("calibrate")
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - heavy
    from cascade.evaluation import features, recordings, trajectories, verdict  # noqa: PLC0415
    from cascade.evaluation.crossfit import Options  # noqa: PLC0415

    wanted, path = Options(**vars(goal)), file or fit
    if path is None or (file and fit):
        raise ConfigurationError(
            "give the transcripts once: `cascade evaluate FILE`, or --fit FILE --test OTHER."
        )
    with busy(f"reading {path}"):
        rows = list(recordings.read_transcripts(path))
        names = recordings.name_pair(rows, small, large)
        fitted, tested = features.pair_of(rows, *names), None
        if test is not None:
            tested = features.pair_of(recordings.read_transcripts(test), *names)
            both = {(r.id, r.prompt) for r in fitted.rows} & {(r.id, r.prompt) for r in tested.rows}
            if both:
                raise ConfigurationError(
                    f"{test}: {len(both):,} of its rows are in {path} too, so that its figures "
                    "would be too good: leave them out of one of the two."
                )
    working = f"fitting and measuring on {len(rows):,} rows"
    if checked:
        with busy(working):
            runs = trajectories.check_runs(fitted, wanted, test=tested)
        give(runs, runs.text)
        return
    with busy(working):
        given = None if calibration is None else Calibration.load(calibration)
        found = verdict.evaluate(fitted, wanted, test=tested, calibration=given)
    write_page(html, verdict.to_document(found))
    _give(found)


def _give(found: Evaluation, text: str = "", remark: str = "", **more: Any) -> None:
    """Write an evaluation, with `text` below it, and `more` for machines."""
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.verdict import to_document  # noqa: PLC0415

    data = {"headline": found.sentence, **dict(found), **more}
    give(data, "\n".join(filter(None, [to_text(to_document(found)), text])), remark)


@spread
def calibrate(
    file: Annotated[Path, Argument(help="Labelled rows: CSV, JSONL or Parquet.")],
    *,
    to: Annotated[Path, Option("--out", help="File to write.")] = Path("calibration.json"),
    agree_with_large: Annotated[
        bool, Option(help="No references: the large model's answer counts as right.")
    ] = False,
    max_harm: MaxHarm = None,
    delta: Delta = 0.1,
    recorded: Annotated[bool, Option("--recorded", help="FILE has transcripts.")] = False,
    stop: Annotated[File, Option(help="Write when to give up runs of the small agent.")] = None,
    models: Models,
    examples: Examples,
) -> None:
    """Fit a calibration to your examples, and prove what can be promised with it.

    Ends with 1 where no certificate could be given that was asked for, or where the confidence is
    of no use.
    """
    need("calibrate")
    from cascade.calibrate import LEAST_LABELS, rule_of  # noqa: PLC0415 - heavy

    must_be_file("--out", to)
    path, rows = (file, []) if recorded else (to.with_suffix(".jsonl"), examples.read(file))
    if not recorded:
        _must_differ(file, path)
        halves = " (with --max-harm one half fits, the other proves)" if max_harm else ""
        _refuse_fewer(rows, LEAST_LABELS * (2 if max_harm else 1), halves)
    labels = "agreement with the large model" if agree_with_large else "references"
    bound: dict[str, Any] = {"labels": labels, "max_harms": max_harm or (), "delta": delta}
    with ExitStack() as opened:
        cascade = models.open(opened, **examples.recording())
        done = (
            None if recorded else _record(cascade, rows, path, examples, models, agree_with_large)
        )
        fitted = _fit(cascade, path, rows, **bound)
        rule = rule_of(fitted.evaluated, cascade.tiers) if fitted.evaluated else None
    made = fitted.calibration
    made.save(to)
    if stop is not None:
        from cascade.evaluation.trajectories import early_stop_of  # noqa: PLC0415 - heavy

        early_stop_of(path, made.small.name, cascade.tiers[-1].model.name).save(stop)
    shown = ("calibrated", "recommendation", "quality", "certificates", "signals", "p_large")
    data = {
        "calibration": to,
        **{name: getattr(made, name) for name in shown},
        "refusals": [refusal.reason for refusal in fitted.refusals],
        "headline": fitted.evaluated.sentence if fitted.evaluated else None,
        "collected": done,
    }
    give(data, _calibration_text(fitted, to, rule))
    if not made.recommendation.use:
        fail(made.recommendation.text, 1)
    if fitted.refusals and not made.certificates:
        fail("no certificate could be given; the calibration was written all the same", 1)


def _calibration_text(fitted: Fitted, to: Path, rule: tuple[str, str] | None) -> str:
    made, q = fitted.calibration, fitted.calibration.quality
    auroc = "? (all of them right, or wrong)" if q.auroc is None else f"{q.auroc:.3f}"
    lines = [f"{to}: {q.n} labelled drafts, {q.accuracy_small:.1%} of them right"]
    if q.accuracy_large is not None:
        lines.append(f"  the large model is right on {q.accuracy_large:.1%}")
    lines += [
        f"  calibration error (ECE)  {q.ece:.3f}   raw score {q.ece_raw:.3f}",
        f"  Brier score              {q.brier:.3f}   raw score {q.brier_raw:.3f}",
        f"  AUROC of correctness     {auroc}",
    ]
    for certificate in made.certificates:
        lines.append(
            f"  certified: P(accepted and wrong) ≤ {certificate.max_harm:.1%} with "
            f"{1 - certificate.delta:.0%} confidence, at confidence ≥ "
            f"{certificate.threshold:.3f}; accepts {certificate.coverage:.0%}"
        )
    lines += [f"  not certified: {refusal.reason}" for refusal in fitted.refusals]
    lines.append("")
    if fitted.evaluated:
        lines.append(fitted.evaluated.sentence)
    if made.recommendation.use:
        if made.certificates:
            rule = "max_harm", f"{made.certificates[0].max_harm:g}"
        decided = "" if rule is None else f", {rule[0]}={rule[1]}"
        lines += [made.recommendation.text, f"\nUse it: Cascade(…, calibrator='{to}'{decided})"]
    return "\n".join(lines)


@spread
def try_(
    file: Annotated[Path, Argument(help="Labelled rows: CSV, JSONL or Parquet.")],
    *,
    to: Annotated[Path, Option("--out", help="Folder to write to.")] = Path("cascade-try"),
    shots: Annotated[int, Option(help="Examples of the file that every prompt shows.")] = 0,
    max_harm: MaxHarm = None,
    goal: Goal,
    models: Models,
    examples: Examples,
) -> None:
    """From labelled rows to an answer: is a cascade worth it here, and how is it set up?

    Records both models, fits, and prints a menu of points, a verdict, and the next command.
    Interrupted, the same command goes on where it was.
    """
    need("calibrate")
    from cascade.calibrate import labels_of, with_shots, write_artefacts  # noqa: PLC0415 - heavy
    from cascade.evaluation.crossfit import LEAST_ROWS, Options  # noqa: PLC0415
    from cascade.evaluation.verdict import FAIR_TEST  # noqa: PLC0415

    choices = labels_of(examples.read(file))
    # Short labels want to be named, and no chance: 11 points of accuracy on a set of ours.
    compares_words = not examples.scorer.startswith(("numeric", "json", "judge"))
    if choices and compares_words and examples.system is None:
        told = f"Answer with one of these words alone: {', '.join(choices)}."
        examples = replace(examples, system=told)
        say(f"system message, unless you give --system: {told}")
    if choices and models.temperature is None:
        models = replace(models, temperature=0.0)
    rows = with_shots(examples.read(file), shots)
    _refuse_fewer(rows, LEAST_ROWS, f", and {FAIR_TEST} for a fair test")
    path, options = to / "transcripts.jsonl", Options(**vars(goal))
    _must_differ(file, path)
    with ExitStack() as opened:
        cascade = models.open(opened, **examples.recording())
        collected = _record(cascade, rows, path, examples, models)
        fitted = _fit(cascade, path, rows, max_harms=max_harm or (), options=options)
        files = write_artefacts(to, fitted, cascade.tiers, examples=rows)
    found, then = fitted.evaluation, _next(fitted.evaluation, files["configuration"])
    remark = f"wrote {', '.join(map(str, files.values()))}\nnext: {then}"
    advice = fitted.calibration.recommendation
    _give(found, "", remark, recommendation=advice, files=files, collected=collected, next=then)


def _next(found: Evaluation, configuration: Path) -> str:
    """What to do about a verdict."""
    from cascade.evaluation.verdict import FAIR_TEST  # noqa: PLC0415 - heavy

    serve = f"cascade serve {configuration}"
    if found.verdict == "unpriced":
        return "the same command with --prices FILE and another --out; see docs/prices.md"
    if found.verdict == "unclear" or (found.verdict == "off" and found.rows < FAIR_TEST):
        return "label more rows and type the same command: it asks the new ones alone"
    if found.verdict == "off":
        return f"leave it off, or try another --small; `{serve}` would measure it without using it"
    return serve


@spread
def demo(
    *,
    n: Annotated[int, Option("--n", help="Questions to ask.")] = 40,
    small: Small = EMBEDDED,
    to: Annotated[Path, Option("--out", help="Folder to write to.")] = Path("demo-output"),
) -> None:
    """A real small model answers, checks itself and escalates; what that costs and saves.

    The large model's answers come with the package: a real model's, recorded once, at the list
    price of a hosted model of its size.
    """
    need("calibrate")
    with _progress(to) as update:
        from cascade.demo import run_demo  # noqa: PLC0415 - heavy

        made = asyncio.run(run_demo(to, n=n, small=small, progress=update))
    assumed, files = made.assumptions, made.files
    text = "\n".join(f"Assumed: {said}." for said in assumed)
    remark = f"wrote {', '.join(map(str, files.values()))}"
    _give(made.fitted.evaluation, text, remark, files=files, assumed=assumed)


def _must_differ(examples: Path, record: Path) -> None:
    """Refuse to record answers into the file of the examples."""
    if record.resolve() == examples.resolve():
        raise ConfigurationError(
            f"--out: the answers would be recorded into {examples}, which has your examples: give "
            "another name."
        )


def _refuse_fewer(rows: Sequence[Example], needed: int, why: str = "") -> None:
    """Refuse examples that are too few, before anything is paid."""
    if len(rows) < needed:
        raise ConfigurationError(
            f"{len(rows)} examples, where {needed} or more are needed{why}. Nothing was asked."
        )


def _fit(cascade: Cascade, path: Path, rows: Sequence[Example], **options: Any) -> Fitted:
    """A calibration on what was recorded."""
    from cascade.calibrate import calibrate as fit  # noqa: PLC0415 - heavy

    with busy("fitting"):
        return asyncio.run(fit(cascade.kernel, path, rows, **options))


def _record(
    cascade: Cascade,
    rows: Sequence[Example],
    path: Path,
    examples: Examples,
    models: Models,
    agree_with_large: bool = False,
) -> Collected:
    """Ask both models, after asking the person where it costs money."""
    from cascade.calibrate import record  # noqa: PLC0415 - heavy
    from cascade.evaluation.scorers import get_scorer  # noqa: PLC0415

    scorer = get_scorer(examples.scorer)
    if not examples.yes:
        _confirm(cascade, rows, path, examples.yes_up_to)
    asked: dict[str, Any] = {
        "agree_with_large": agree_with_large,
        "concurrency": examples.concurrency or models.at_once(8),
    }
    with _progress(path) as update:
        done = asyncio.run(record(cascade.kernel, rows, path, scorer, progress=update, **asked))
    if done.unlabelled and done.unlabelled == done.total:
        if agree_with_large or any(row.labels or row.reference is not None for row in rows):
            raise CascadeError(
                f"--scorer {examples.scorer} said of no answer whether it is right: give another."
            )
        raise ConfigurationError(
            "no example says which answer is right, and none was asked: name their column, --label."
        )
    for name, why in list(done.failures.items())[:MOST_TOLD]:
        say(f"example {name} failed: {why}", style="yellow")
    if done.failures:
        say(f"failed examples: {len(done.failures)}; the next run tries them again")
    if done.unlabelled:
        say(f"examples left out, since nothing says which answer is right: {done.unlabelled}")
    return done


def _confirm(cascade: Cascade, rows: Sequence[Example], path: Path, up_to_usd: float) -> None:
    """Say what will be asked at which cost, and ask the person where it may be more than that."""
    from cascade.calibrate import expected_usd  # noqa: PLC0415 - heavy
    from cascade.evaluation.recordings import read_transcripts  # noqa: PLC0415

    known = {r.id for r in read_transcripts(path)} if path.exists() else set()
    left = [row for row in rows if row.id not in known]
    if not left:
        return
    checks = sum(signal.calls for signal in cascade.kernel.parts.signals)
    told, hosted = [], list[Decimal | None]()
    for tier, calls in zip(cascade.tiers, (1 + checks, 1), strict=True):
        cost = expected_usd(left, tier.pricing, max_tokens=tier.max_tokens, calls=calls)
        if cost is not None:
            told.append(f"{tier.name} about ${cost:.4f}")
        elif getattr(tier.pricing, "per_hour", None) is not None:
            told.append(f"{tier.name} by its busy time")
        else:
            told.append(f"{tier.name} has no price set")
        hosted += [] if tier.local else [cost]
    prices = ", ".join(told)
    say(f"{len(left)} examples to be asked of both models, {len(known)} are there: {prices}")
    if "no price" in prices:
        say("without a price nothing tells what is saved: --prices FILE (docs/prices.md)")
    if None not in hosted and sum(filter(None, hosted)) <= up_to_usd:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"say --yes to spend this ({prices}); no person is there to be asked."
        )
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[Collected], None]]:
    """What shows a person how far collecting is, and on Ctrl-C where it goes on."""
    kept = "nothing is recorded yet"

    def update(done: Collected) -> None:
        nonlocal kept
        spent = "?" if done.spent_usd is None else f"${done.spent_usd:.4f}"
        usd = "?" if done.left_usd is None else f"${done.left_usd:.4f}"
        left = "" if done.left_s is None else f", {done.left_s:.0f} s and {usd} left"
        kept = f"{done.skipped + done.written} of {done.total} are in {path}"
        tell(f"{done.total - done.left} of {done.total}, {spent} spent{left}")

    try:
        with busy("getting ready") as tell:
            yield update
    except KeyboardInterrupt:
        said = f"interrupted: {kept}; the same command goes on"
        fail(said, INTERRUPTED, kind="Interrupted")

"""Verdicts and calibrations: `cascade evaluate`, `calibrate`, `try` and `demo`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from cascade.cli.console import busy, fail, give, say
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
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.evaluation.recordings import Example

SHARE: dict[str, Any] = {"min": 0.001, "max": 0.999}

MaxHarm = Annotated[
    list[float] | None,
    Option(help="Certify P(accepted and wrong) at most this; repeatable.", **SHARE),
]
Delta = Annotated[float, Option(help="Chance that a certificate does not hold.", **SHARE)]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Goal."""

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


@spread
def evaluate(
    file: Annotated[File, Argument(help="Transcripts: JSON lines, plain or gzip.")] = None,
    *,
    fit: Annotated[File, Option(help="The transcripts, in place of FILE.")] = None,
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
    from cascade.cli import recording  # noqa: PLC0415
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - heavy
    from cascade.evaluation import features, recordings, trajectories, verdict  # noqa: PLC0415
    from cascade.evaluation.crossfit import Options  # noqa: PLC0415

    wanted, path = Options(**vars(goal)), fit or file
    if path is None or (fit and file):
        raise ConfigurationError("give the transcripts once: FILE, or --fit FILE --test OTHER.")
    with busy(f"reading {path}"):
        rows = list(recordings.read_transcripts(path))
        names = str(small), str(large)
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
    recording.show(found)


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
    from cascade.calibrate import rule_of  # noqa: PLC0415 - heavy
    from cascade.cli import recording  # noqa: PLC0415
    from cascade.confidence.calibrating import LEAST_LABELS  # noqa: PLC0415

    must_be_file("--out", to)
    labels = "agreement with the large model" if agree_with_large else "references"
    path, done = file, None
    rows: list[Example] = []
    with ExitStack() as opened:
        cascade = recording.open_both(opened, models, examples.signals)
        if not recorded:
            path, rows = to.with_suffix(".jsonl"), examples.read(file)
            halves = " (with --max-harm one half fits, the other proves)" if max_harm else ""
            recording.check(rows, LEAST_LABELS * (2 if max_harm else 1), halves, file, path)
            at_once = models.at_once(8)
            done = recording.ask(cascade, rows, path, examples, at_once, agree_with_large)
        given: dict[str, Any] = {"labels": labels, "max_harms": max_harm or (), "delta": delta}
        fitted = recording.fit(cascade, path, rows, **given)
        rule = rule_of(fitted.evaluation, cascade.tiers)
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
        "headline": fitted.evaluation.sentence if fitted.evaluation else None,
        "collected": done,
    }
    give(data, "\n".join(recording.told(fitted, to, rule)))
    if not made.recommendation.use:
        fail(made.recommendation.text, 1)
    if fitted.refusals and not made.certificates:
        fail("no certificate could be given; the calibration was written all the same", 1)


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
    from cascade.calibrate import labels_of, with_shots  # noqa: PLC0415 - heavy
    from cascade.cli import recording  # noqa: PLC0415
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
    fair = f", and {FAIR_TEST} for a fair test"
    recording.check(rows, LEAST_ROWS, fair, file, to / recording.ANSWERS)
    given: dict[str, Any] = {"max_harms": max_harm or (), "options": Options(**vars(goal))}
    with ExitStack() as opened:
        cascade = recording.open_both(opened, models, examples.signals)
        recording.judge(cascade, rows, to, examples, models.at_once(8), **given)


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
    from cascade import demo as packaged  # noqa: PLC0415 - heavy
    from cascade.cli import recording  # noqa: PLC0415

    how = Examples(scorer="contains", yes=True)
    with packaged.open_cascade(small) as cascade:
        recording.judge(cascade, packaged.questions(n), to, how, 2, packaged.ASSUMED)

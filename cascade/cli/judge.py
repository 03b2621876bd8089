"""`cascade evaluate`, `calibrate`, `try`, `demo`: is it worth it, and from which confidence on?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli import options
from cascade.cli.console import (
    busy,
    fail,
    print_json,
    say,
    show,
    write_pages,
)
from cascade.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.evaluation.collecting import Collected
    from cascade.evaluation.recordings import Example
    from cascade.evaluation.verdict import Evaluation

EXAMPLES = {
    "evaluate": (
        "Example: cascade evaluate answers.jsonl --small ollama:qwen2.5:3b --large openai:gpt-5.1 "
        "--price-of-error 0.05 --html report.html"
    ),
    "calibrate": (
        "Example: cascade calibrate examples.jsonl --small ollama:qwen2.5:3b "
        "--large openai:gpt-5.1 --scorer exact --max-harm 0.05 --out calibration.json"
    ),
    "try": (
        "Example: cascade try tickets.csv --question text --label category "
        "--small ollama:qwen2.5:3b --large openai:gpt-5.1"
    ),
    "demo": "Example: cascade demo --n 20",
}

Within = Annotated[
    float,
    options.number(
        "Quality that may be lost, as a share: 0.01 is one point.",
        float,
        "a share of the questions, from 0 to below 1; one point is 0.01",
        lambda share: 0 <= share < 1,
    ),
]
Caution = Annotated[
    float,
    options.number(
        "Standard errors that the expected loss has to stay below that.",
        float,
        "a number, 0 or more",
        lambda errors: errors >= 0,
    ),
]
Scorer = Annotated[
    str, typer.Option(help="How answers are compared: exact, contains, choice, numeric, json, …")
]
MaxHarm = Annotated[
    list[float] | None,
    options.probability("Certify P(accepted and wrong) at most this; repeatable."),
]
Delta = Annotated[float, options.probability("Chance that a certificate does not hold.")]
Asked = Annotated[str | None, typer.Option("--question", help="Column of the questions.")]
Label = Annotated[str | None, typer.Option(help="Column of the right answers.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Examples under way at once.")]
Signals = Annotated[list[str] | None, typer.Option(help="Take this signal; repeatable.")]


def need_numbers() -> None:
    """Refuse to compute where numpy, scipy or scikit-learn is not installed.

    Raises:
        MissingDependencyError: the message names the extra.
    """
    missing = [name for name in ("numpy", "scipy", "sklearn") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{' and '.join(missing)} not installed: install the extra `calibrate`."
        )


def evaluate(
    file: Annotated[
        Path | None, typer.Argument(help="Transcripts: JSON lines, plain or gzip.")
    ] = None,
    *,
    fit: Annotated[
        Path | None, typer.Option(help="Instead of the argument, beside --test.")
    ] = None,
    small: Annotated[str | None, typer.Option(help="Model that drafts, by its name.")] = None,
    large: Annotated[str | None, typer.Option(help="Model that is asked in doubt.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Other transcripts, for the figures alone.")
    ] = None,
    calibration: options.Calibration = None,
    price_of_error: options.PriceOfError = None,
    max_harm: Annotated[
        float | None, options.probability("Bound on P(accepted and wrong), to be certified.")
    ] = None,
    delta: Delta = 0.1,
    within: Within = 0.01,
    caution: Caution = 0.0,
    checked: Annotated[
        bool, typer.Option("--checked", help="A check shows which runs of the small agent failed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of splits and intervals.")] = 0,
    figures: options.Figures = None,
    html: options.Html = None,
    json: options.Json = False,
) -> None:
    """Replay recorded answers: what would a cascade have cost, and how right would it have been?"""
    need_numbers()
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - heavy
    from cascade.evaluation.crossfit import Options  # noqa: PLC0415
    from cascade.evaluation.features import pair_of  # noqa: PLC0415
    from cascade.evaluation.ladder import fit_ladder  # noqa: PLC0415
    from cascade.evaluation.recordings import name_pair, read_transcripts  # noqa: PLC0415
    from cascade.evaluation.trajectories import check_runs, fit_agents  # noqa: PLC0415
    from cascade.evaluation.verdict import evaluate as work  # noqa: PLC0415

    wanted = Options(
        within=within,
        caution=caution,
        price_of_error=price_of_error,
        max_harm=max_harm,
        delta=delta,
        seed=seed,
    )
    path = file or fit
    if path is None or (file and fit):
        raise ConfigurationError(
            "give the transcripts once: `cascade evaluate FILE`, or --fit FILE --test OTHER."
        )
    with busy(f"reading {path}"):
        rows = list(read_transcripts(path))
        names = name_pair(rows, small, large)
        fitted = pair_of(rows, *names)
        tested = None if test is None else pair_of(read_transcripts(test), *names)
    with busy(f"fitting and measuring on {len(rows):,} rows"):
        runs = check_runs(fitted, wanted, test=tested) if checked else None
    if runs is not None:
        print_json(runs) if json else show(runs.text)
        return
    with busy(f"fitting and measuring on {len(rows):,} rows"):
        given = None if calibration is None else Calibration.load(calibration)
        whole_runs = any(outcome.steps for outcome in fitted.outcomes(fitted.small))
        choose = fit_agents if whole_runs else fit_ladder
        found = work(fitted, wanted, test=tested, calibration=given, choose=choose)
    _show(found, html=html, figures=figures, as_json=json)


def _data(found: Evaluation) -> dict[str, Any]:
    from cascade.evaluation.render import to_data  # noqa: PLC0415 - heavy

    data = to_data(found)
    return {"headline": found.sentence, **(data if isinstance(data, dict) else {})}


def _show(
    found: Evaluation,
    *,
    html: Path | None = None,
    figures: Path | None = None,
    as_json: bool = False,
) -> None:
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.verdict import to_document  # noqa: PLC0415

    document = to_document(found)
    write_pages(document, html, figures)
    if as_json:
        print_json(_data(found))
    else:
        show(to_text(document))


def calibrate(
    examples: Annotated[
        Path, typer.Argument(help="CSV, JSONL or Parquet: question and reference, or labels.")
    ],
    *,
    small: options.Small,
    large: options.Large = None,
    to: Annotated[Path, typer.Option("--out", help="The calibration to write.")] = Path(
        "calibration.json"
    ),
    question: Asked = None,
    label: Label = None,
    scorer: Scorer = "exact",
    signals: Signals = None,
    agree_with_large: Annotated[
        bool, typer.Option(help="No references: the large model's answer counts as right.")
    ] = False,
    max_harm: MaxHarm = None,
    delta: Delta = 0.1,
    system: options.System = None,
    prices: options.Prices = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    concurrency: Concurrency = 8,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="EXAMPLES are transcripts: ask no model.")
    ] = False,
    stop: Annotated[
        Path | None, typer.Option(help="Write when to give up runs of the small agent.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
    json: options.Json = False,
) -> None:
    """Fit a calibration to your examples, and prove what can be promised with it.

    Ends with 1 where no certificate could be given that was asked for, or where the confidence is
    of no use.
    """
    need_numbers()
    harms = max_harm or []
    if to.is_dir() or not to.absolute().parent.is_dir():  # before everything has been paid for
        raise ConfigurationError(f"--out {to}: a file in a folder that exists is needed.")
    from cascade.calibrate import LEAST_LABELS  # noqa: PLC0415 - heavy
    from cascade.calibrate import calibrate as fit  # noqa: PLC0415
    from cascade.evaluation.recordings import read_examples  # noqa: PLC0415

    path = examples if recorded else to.with_suffix(".jsonl")
    asked = (
        [] if recorded else read_examples(examples, question=question, label=label, system=system)
    )
    needed = LEAST_LABELS * (2 if harms else 1)
    if not recorded and len(asked) < needed:
        halves = ": with --max-harm one half fits and the other proves" if harms else ""
        raise ConfigurationError(
            f"{len(asked)} examples, where {needed} or more are needed{halves}. Nothing was asked."
        )
    with ExitStack() as opened:
        common = {"prices": prices, "max_tokens": max_tokens, "temperature": temperature}
        cascade = _recording(opened, signals, small=small, large=large, **common)
        collected = None
        if not recorded:
            limit = None if yes else 0.0
            collected = _record(cascade, asked, path, scorer, agree_with_large, concurrency, limit)
        labels = "agreement with the large model" if agree_with_large else "references"
        fitted = asyncio.run(
            fit(cascade.kernel, path, asked, labels=labels, max_harms=harms, delta=delta)
        )
    made = fitted.calibration
    made.save(to)
    if stop is not None:
        from cascade.evaluation.trajectories import early_stop_of  # noqa: PLC0415 - heavy

        early_stop_of(path, made.small.name, cascade.tiers[-1].model.name).save(stop)
    advice = made.recommendation
    if json:
        of_made = ("calibrated", "recommendation", "quality", "certificates", "signals", "p_large")
        print_json(
            {
                "calibration": to,
                **{name: getattr(made, name) for name in of_made},
                "refusals": [refusal.reason for refusal in fitted.refusals],
                "headline": fitted.evaluated.sentence if fitted.evaluated else None,
                "collected": _counts(collected),
            }
        )
    else:
        _print_calibration(made, fitted, to)
    if not advice.use:
        fail(advice.text, 1)
    if fitted.refusals and not made.certificates:
        fail("no certificate could be given; the calibration was written all the same", 1)


def _print_calibration(made: Any, fitted: Any, to: Path) -> None:
    q = made.quality
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
    lines += ["", fitted.evaluated.sentence] if fitted.evaluated else [""]
    if made.recommendation.use:
        lines += [made.recommendation.text, f"\nUse it: Cascade(…, calibrator='{to}')"]
    show("\n".join(lines))


def _recording(opened: ExitStack, signals: list[str] | None, **common: Any) -> Cascade:
    """The cascade that asks both models every question."""
    from cascade.calibrate import SIGNALS, AlwaysEscalate  # noqa: PLC0415 - heavy

    taken = signals or list(SIGNALS)
    return options.pair(opened, policy=AlwaysEscalate(), signals=taken, **common)


def _record(
    cascade: Cascade,
    examples: Sequence[Example],
    path: Path,
    scorer: str,
    agree_with_large: bool,
    concurrency: int,
    yes_up_to: float | None,
) -> Collected:
    """Ask both models, after asking the person where it costs more than that."""
    from cascade.calibrate import record  # noqa: PLC0415 - heavy
    from cascade.evaluation.scorers import get_scorer  # noqa: PLC0415

    compare = get_scorer(scorer)
    _confirm(cascade, examples, path, yes_up_to)
    with _progress() as update:
        done = asyncio.run(
            record(
                cascade.kernel,
                examples,
                path,
                compare,
                agree_with_large=agree_with_large,
                concurrency=concurrency,
                progress=update,
            )
        )
    if done.unlabelled and done.unlabelled == done.total:
        raise ConfigurationError(
            "no example says which answer is right, and none was asked: name their column, --label."
        )
    for name, why in list(done.failures.items())[:5]:
        say(f"example {name} failed: {why}", style="yellow")
    if done.failures:
        say(f"failed examples: {len(done.failures)}; the next run tries them again")
    if done.unlabelled:
        say(f"examples left out, since nothing says which answer is right: {done.unlabelled}")
    return done


def _confirm(
    cascade: Cascade, examples: Sequence[Example], path: Path, yes_up_to: float | None
) -> None:
    from cascade.evaluation.collecting import expected_usd  # noqa: PLC0415 - heavy
    from cascade.evaluation.recordings import read_transcripts  # noqa: PLC0415

    known = {r.id for r in read_transcripts(path)} if path.exists() else set()
    left = [example for example in examples if example.id not in known]
    if not left or yes_up_to is None:
        return
    checks = sum(signal.calls for signal in cascade.kernel.parts.signals)
    costs = {
        tier.name: expected_usd(left, tier.pricing, max_tokens=tier.max_tokens, calls=calls)
        for tier, calls in zip(cascade.tiers, (1 + checks, 1), strict=True)
    }
    prices = [
        f"{name} has no price set" if cost is None else f"{name} about ${cost:.4f}"
        for name, cost in costs.items()
    ]
    done = f" ({len(known)} are in {path} already)" if known else ""
    say(f"{len(left)} examples to be asked of both models{done}: {', '.join(prices)}")
    if None in costs.values():
        say("without a price nothing tells what is saved: --prices FILE (docs/prices.md)")
    elsewhere = [tier for tier in cascade.tiers if not tier.local]
    expected = [costs[tier.name] for tier in elsewhere]
    if all(cost is not None and cost <= yes_up_to for cost in expected):
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"say --yes to spend this ({', '.join(prices)}); no person is there to be asked."
        )
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def _counts(done: Collected | None) -> dict[str, Any] | None:
    fields = ("written", "skipped", "unlabelled", "failures", "spent_usd")
    return None if done is None else {name: getattr(done, name) for name in fields}


def try_(
    examples: Annotated[Path, typer.Argument(help="Labelled rows: CSV, JSONL or Parquet.")],
    *,
    small: options.Small = options.EMBEDDED,
    large: options.Large = None,
    question: Asked = None,
    label: Label = None,
    scorer: Scorer = "exact",
    shots: Annotated[int, typer.Option(help="Examples of the file that every prompt shows.")] = 0,
    signals: Signals = None,
    within: Within = 0.01,
    caution: Caution = 0.0,
    price_of_error: options.PriceOfError = None,
    max_harm: MaxHarm = None,
    system: options.System = None,
    prices: options.Prices = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    concurrency: Concurrency = 8,
    to: Annotated[Path, typer.Option("--out", help="Folder for all that is written.")] = Path(
        "cascade-try"
    ),
    yes_up_to: Annotated[
        float, typer.Option(help="Dollars that may be spent without asking.")
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """From labelled rows to an answer: is a cascade worth it here, and how is it set up?

    Records both models, fits, and prints a menu of points, a verdict, and the next command.
    Interrupted, the same command goes on where it was.
    """
    need_numbers()
    from cascade.calibrate import calibrate as fit  # noqa: PLC0415 - heavy
    from cascade.evaluation import collecting  # noqa: PLC0415
    from cascade.evaluation.crossfit import LEAST_ROWS, Options  # noqa: PLC0415
    from cascade.evaluation.recordings import read_examples  # noqa: PLC0415
    from cascade.evaluation.verdict import FAIR_TEST  # noqa: PLC0415

    rows = read_examples(examples, question=question, label=label)
    choices = collecting.labels_of(rows)
    if choices and system is None:
        # Short labels want to be named, and no chance: 11 points of accuracy on a set of ours.
        system = f"Answer with one of these words alone: {', '.join(choices)}."
        temperature = 0.0 if temperature is None else temperature
    rows = read_examples(examples, question=question, label=label, system=system)
    if shots:
        rows = collecting.with_shots(rows, shots)
    if len(rows) < LEAST_ROWS:
        raise ConfigurationError(
            f"{examples}: {len(rows)} rows, where {LEAST_ROWS} or more are needed, and "
            f"{FAIR_TEST} for a fair test. Nothing was asked."
        )
    path = to / "transcripts.jsonl"
    wanted = Options(within=within, caution=caution, price_of_error=price_of_error)
    with ExitStack() as opened:
        common = {"prices": prices, "max_tokens": max_tokens, "temperature": temperature}
        cascade = _recording(opened, signals, small=small, large=large, **common)
        collected = _record(cascade, rows, path, scorer, False, concurrency, yes_up_to)
        fitted = asyncio.run(
            fit(cascade.kernel, path, rows, max_harms=max_harm or [], options=wanted)
        )
        how: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        how = {name: value for name, value in how.items() if value is not None}
        tiers = [
            {
                "name": tier.name,
                "model": tier.model.name,
                **how,
                **collecting.set_price(tier.pricing),
            }
            for tier in cascade.tiers
        ]
    files = collecting.write_artefacts(to, fitted, tiers)
    follow = f"cascade serve {files['configuration']}"
    if json:
        print_json(
            {
                **_data(fitted.evaluation),
                "recommendation": fitted.calibration.recommendation,
                "files": files,
                "collected": _counts(collected),
                "next": follow,
            }
        )
        return
    _show(fitted.evaluation)
    say(f"wrote {', '.join(str(file) for file in files.values())}\nnext: {follow}")


def demo(
    *,
    n: Annotated[int, typer.Option("--n", help="Questions to ask.")] = 40,
    small: options.Small = options.EMBEDDED,
    to: Annotated[Path, typer.Option("--out", help="Folder for all that is written.")] = Path(
        "demo-output"
    ),
    json: options.Json = False,
) -> None:
    """A real small model answers, checks itself and escalates; what that costs and saves.

    The large model's answers come with the package: a real model's, recorded once, at the list
    price of a hosted model of its size.
    """
    need_numbers()
    from cascade.demo import run_demo  # noqa: PLC0415 - heavy

    with _progress() as update:
        made = asyncio.run(run_demo(to, n=n, small=small, progress=update))
    found = made.fitted.evaluation
    if json:
        print_json({"files": made.files, "assumed": made.assumptions, **_data(found)})
        return
    _show(found)
    show("\n".join(f"Assumed: {said}." for said in made.assumptions))
    say(f"wrote {', '.join(map(str, made.files.values()))}")


@contextmanager
def _progress() -> Iterator[Callable[[Collected], None]]:
    """What shows a person how far collecting is."""
    with busy() as tell:

        def update(done: Collected) -> None:
            spent = "?" if done.spent_usd is None else f"${done.spent_usd:.4f}"
            left = "" if done.left_s is None else f", {done.left_s:.0f} s left"
            tell(f"{done.total - done.left} of {done.total}, {spent} spent{left}")

        yield update

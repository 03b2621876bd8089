"""`cascade calibrate`: from examples to a calibration, with certificates where they can be had."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cascade.cli.completing import SCORERS, SIGNALS, models, one_of
from cascade.cli.console import err, fail, out, print_json, reports_errors, spending, watched
from cascade.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.collect import Collected, Example
    from cascade.evaluation.calibration import Calibrated
    from cascade.evaluation.scorers import Scorer

SHOWN_FAILURES = 5
EXAMPLE = (
    "Example: cascade calibrate examples.jsonl --small ollama:qwen2.5:3b --large openai:gpt-5.1 "
    "--scorer exact --max-harm 0.05 --out calibration.json"
)


@reports_errors
def calibrate(  # noqa: PLR0913 - the options of a command
    examples: Annotated[
        Path,
        typer.Argument(help="JSON lines: question or messages, and reference, labels or neither."),
    ],
    *,
    small: Annotated[
        str,
        typer.Option(envvar="CASCADE_SMALL", help="The model that drafts.", autocompletion=models),
    ],
    large: Annotated[
        str, typer.Option(envvar="CASCADE_LARGE", help="The large model.", autocompletion=models)
    ],
    to: Annotated[Path, typer.Option("--out", help="The calibration to write.")] = Path(
        "calibration.json"
    ),
    work: Annotated[
        Path | None,
        typer.Option(help="Transcripts, continued when they exist. [default: OUT.jsonl]"),
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="How answers are compared with references: see cascade evaluate.",
            autocompletion=one_of(SCORERS),
        ),
    ] = "exact",
    signals: Annotated[
        list[str] | None,
        typer.Option(help="Take this signal; may be repeated.", autocompletion=one_of(SIGNALS)),
    ] = None,
    agree_with_large: Annotated[
        bool, typer.Option(help="No references: the large model's answer counts as right.")
    ] = False,
    max_harm: Annotated[
        list[float] | None,
        typer.Option(help="Certify P(accepted and wrong) at most this; may be repeated."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance that a certificate does not hold.")] = 0.1,
    max_tokens: Annotated[int | None, typer.Option(help="Limit of the answers' length.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of both models.")] = None,
    concurrency: Annotated[int, typer.Option(help="Examples under way at once.")] = 8,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="EXAMPLES are transcripts: ask no model.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit a calibration to your examples, and prove what can be promised with it."""
    _check_before_spending(to, max_harm or [], delta)
    from cascade.api import Cascade  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.collect import AlwaysEscalate, read_examples  # noqa: PLC0415
    from cascade.evaluation.scorers import get_scorer  # noqa: PLC0415
    from cascade.tiers import Tier  # noqa: PLC0415

    cascade = Cascade(
        Tier(small, max_tokens=max_tokens, temperature=temperature),
        Tier(large, max_tokens=max_tokens, temperature=temperature),
        policy=AlwaysEscalate(),
        signals=signals or ["logprobs", "text", "prompt"],
    )
    labels = "agreement with the large model" if agree_with_large else "references"
    path = examples if recorded else work or to.with_suffix(".jsonl")
    collected: Collected | None = None
    asked: list[Example] = []
    if not recorded:
        asked, compare = read_examples(examples), get_scorer(scorer)
        known = _known(path)
        _check_number({example.id for example in asked} | known, max_harm or [])
        _confirm(asked, cascade, path, known, compare, yes=yes)
        with spending():
            collected = _collect(asked, cascade, path, compare, agree_with_large, concurrency)
        _remark(collected)
    made = asyncio.run(_fit(cascade, path, asked, labels, max_harm or [], delta))
    made.calibration.save(to)
    if json:
        print_json({"calibration": str(to), **_summary(made), "collected": _counts(collected)})
    else:
        _print(made, to)
    if made.refusals and not made.calibration.certificates:
        fail("no certificate could be given; the calibration was written all the same", 1)


def _check_before_spending(to: Path, max_harms: Sequence[float], delta: float) -> None:
    """What would only be found out when everything has been paid for."""
    if any(find_spec(package) is None for package in ("numpy", "scipy", "sklearn")):
        raise MissingDependencyError(
            'calibrating needs scikit-learn and scipy: pip install "agent-cascade[calibrate]".'
        )
    wrong = [f"--max-harm {harm}" for harm in max_harms if not 0 < harm < 1]
    wrong += [] if 0 < delta < 1 else [f"--delta {delta}"]
    if wrong:
        raise ConfigurationError(f"{' and '.join(wrong)}: a probability is between 0 and 1.")
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise ConfigurationError(f"--out {to}: a file in a folder that exists is needed.")


def _known(work: Path) -> set[str]:
    """The examples that an earlier run has written down."""
    from cascade.evaluation.transcripts import read_transcripts  # noqa: PLC0415

    return {record.id for record in read_transcripts(work, models=())} if work.exists() else set()


def _check_number(ids: Collection[str], max_harms: Sequence[float]) -> None:
    """Fewer examples than labels that are needed would be paid for in vain."""
    from cascade.confidence.calibrating import LEAST_LABELS  # noqa: PLC0415

    needed = 2 * LEAST_LABELS if max_harms else LEAST_LABELS
    if len(ids) < needed:
        halves = ": with --max-harm one half fits and the other proves" if max_harms else ""
        raise ConfigurationError(
            f"{len(ids)} examples, where {needed} or more are needed{halves}. Nothing was asked."
        )


def _confirm(
    examples: Sequence[Example],
    cascade: Cascade,
    work: Path,
    known: Collection[str],
    scorer: Scorer,
    *,
    yes: bool,
) -> None:
    from cascade.collect import expected_cost  # noqa: PLC0415
    from cascade.evaluation.scorers import JudgeScorer  # noqa: PLC0415

    left = [example for example in examples if example.id not in known]
    if not left:
        return
    small, large = cascade.tiers
    checks = sum(signal.calls for signal in cascade.signals)
    costs = {
        small.name: expected_cost(left, [small], calls=1 + checks),
        large.name: expected_cost(left, [large]),
    }
    prices = [
        f"{name} has no price set" if cost is None else f"{name} about ${cost:.4f}"
        for name, cost in costs.items()
    ]
    models = [small.model, large.model]
    if isinstance(scorer, JudgeScorer):
        prices.append(f"the judge {scorer.model.name} comes on top")
        models.append(scorer.model)
    done = f" ({len(known)} are in {work} already)" if known else ""
    err.print(
        f"{len(left)} example{'s' * (len(left) != 1)} to be asked of both models{done}: "
        + ", ".join(prices),
        markup=False,
    )
    if yes or all(model.local for model in models):
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("say --yes to spend this; there is nobody to ask.")
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def _collect(
    examples: Sequence[Example],
    cascade: Cascade,
    path: Path,
    scorer: Scorer,
    agree_with_large: bool,
    concurrency: int,
) -> Collected:
    from cascade.collect import collect  # noqa: PLC0415
    from cascade.evaluation.transcripts import TranscriptWriter  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeRemainingColumn(), console=err, disable=not watched()) as progress,
        TranscriptWriter(path) as writer,
    ):
        task = progress.add_task("examples", total=len(examples))

        def show(done: Collected) -> None:
            spent = done.ledger.known_cost_usd
            count = done.skipped + done.written + done.unlabelled + len(done.failures)
            progress.update(task, completed=count, description=f"examples, ${spent:.4f} spent")

        return asyncio.run(
            collect(
                examples,
                cascade,
                scorer,
                writer,
                dataset=path.stem,
                agree_with_large=agree_with_large,
                concurrency=concurrency,
                progress=show,
            )
        )


async def _fit(
    cascade: Cascade,
    path: Path,
    examples: Sequence[Example],
    labels: Any,
    max_harms: Sequence[float],
    delta: float,
) -> Calibrated:
    from cascade.collect import labelled_drafts, made_for  # noqa: PLC0415
    from cascade.evaluation.calibration import calibrate_and_certify  # noqa: PLC0415

    drafts = labelled_drafts(path, cascade)
    binding = await made_for(cascade, examples, labels, recorded=None if examples else path)
    signals = [(signal.name, signal.calls) for signal in cascade.signals]
    return calibrate_and_certify(drafts, signals, binding, max_harms=max_harms, delta=delta)


def _summary(made: Calibrated) -> dict[str, Any]:
    return {
        "quality": made.calibration.quality,
        "certificates": list(made.calibration.certificates),
        "refusals": [refusal.reason for refusal in made.refusals],
        "signals": list(made.calibration.signals),
        "p_large": made.calibration.p_large,
    }


def _counts(collected: Collected | None) -> dict[str, Any] | None:
    if collected is None:
        return None
    return {
        "written": collected.written,
        "skipped": collected.skipped,
        "unlabelled": collected.unlabelled,
        "failures": collected.failures,
        "cost_usd": collected.ledger.known_cost_usd,
    }


def _remark(collected: Collected) -> None:
    for name, why in list(collected.failures.items())[:SHOWN_FAILURES]:
        err.print(f"example {name} failed: {why}", style="yellow", markup=False)
    if collected.failures:
        err.print(f"failed examples: {len(collected.failures)}; the next run tries them again")
    if collected.unlabelled:
        err.print(f"examples left out, since nobody knows the answer: {collected.unlabelled}")
    if collected.entries:
        ledger = collected.ledger
        unknown = "" if ledger.cost_usd is not None else ", and more that has no price"
        err.print(f"spent on the examples: ${ledger.known_cost_usd:.4f}{unknown}")


def _print(made: Calibrated, to: Path) -> None:
    q = made.calibration.quality
    out.print(f"{to}: {q.n} labelled drafts, {q.accuracy_small:.1%} of them right", markup=False)
    if q.accuracy_large is not None:
        out.print(f"  the large model is right on {q.accuracy_large:.1%}")
    out.print(f"  calibration error (ECE)  {q.ece:.3f}   raw score {q.ece_raw:.3f}")
    out.print(f"  Brier score              {q.brier:.3f}   raw score {q.brier_raw:.3f}")
    out.print(f"  AUROC of correctness     {q.auroc:.3f}")
    if q.auroc_gain is not None:
        out.print(f"  AUROC of gain            {q.auroc_gain:.3f}")
    for certificate in made.calibration.certificates:
        out.print(
            f"  certified: P(accepted and wrong) ≤ {certificate.max_harm:.1%} with "
            f"{1 - certificate.delta:.0%} confidence, at confidence ≥ "
            f"{certificate.threshold:.3f}; accepts {certificate.coverage:.0%}"
        )
    for refusal in made.refusals:
        out.print(f"  not certified: {refusal.reason}", markup=False)
    out.print(f"\nUse it: Cascade(…, calibrator='{to}')", markup=False)

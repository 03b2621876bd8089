"""Recording of both models' answers at a terminal: its cost, its progress, its verdict."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cascade.calibrate import (
    GIVE_UP_AFTER,
    SIGNALS,
    Collected,
    Fitted,
    calibrate,
    expected_usd,
    record,
    write_artefacts,
)
from cascade.cli.console import INTERRUPTED, MOST_TOLD, busy, fail, give, say
from cascade.errors import CascadeError, ConfigurationError
from cascade.evaluation.recordings import Example, read_transcripts
from cascade.evaluation.render import to_text
from cascade.evaluation.scorers import as_scorer
from cascade.evaluation.verdict import FAIR_TEST, Evaluation, to_document
from cascade.middleware import Breaker

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.cli.judge import Examples
    from cascade.cli.options import Models

ANSWERS = "transcripts.jsonl"
"""File of what both models answered, in a folder of `try` or `demo`."""


def open_both(opened: ExitStack, models: Models, signals: Sequence[str] | None) -> Cascade:
    """A cascade that asks both models every question."""
    # Every example is wanted: a server is asked until it is plain that it is gone.
    breaker = Breaker(GIVE_UP_AFTER)
    options: dict[str, Any] = {"signals": signals or list(SIGNALS), "middleware": [breaker]}
    return models.open(opened, **options)


def check(rows: Sequence[Example], needed: int, why: str, file: Path, path: Path) -> None:
    """Refuse, before anything is paid, too few examples, or to record into their own file."""
    if path.resolve() == file.resolve():
        raise ConfigurationError(
            f"--out: the answers would be recorded into {file}, which has your examples: give "
            "another name."
        )
    if len(rows) < needed:
        raise ConfigurationError(
            f"{len(rows)} examples, where {needed} or more are needed{why}. Nothing was asked."
        )


def ask(
    cascade: Cascade,
    rows: Sequence[Example],
    path: Path,
    how: Examples,
    at_once: int,
    agree_with_large: bool = False,
) -> Collected:
    """Record what both models answer, after asking the person where it costs money."""
    scorer, kept = as_scorer(how.scorer), "nothing is recorded yet"
    if not how.yes:
        _confirm(cascade, rows, path, how.yes_up_to)

    def update(done: Collected) -> None:
        nonlocal kept
        kept = f"{done.skipped + done.written} of {done.total} are in {path}"
        tell(str(done))

    work = record(
        cascade.kernel,
        rows,
        path,
        scorer,
        agree_with_large=agree_with_large,
        concurrency=how.concurrency or at_once,
        progress=update,
    )
    try:
        with busy("getting ready") as tell:
            done = asyncio.run(work)
    except KeyboardInterrupt:
        said = f"interrupted: {kept}; the same command goes on"
        fail(said, INTERRUPTED, kind="Interrupted")
    if done.unlabelled and done.unlabelled == done.total:
        if agree_with_large or any(r.labels or r.reference is not None for r in rows):
            raise CascadeError(
                f"--scorer {how.scorer} said of no answer whether it is right: give another."
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
    known = {row.id for row in read_transcripts(path)} if path.exists() else set()
    left = [row for row in rows if row.id not in known]
    if not left:
        return
    checks = sum(signal.calls for signal in cascade.kernel.parts.signals)
    told, hosted = [], 0.0
    for tier, calls in zip(cascade.tiers, (1 + checks, 1), strict=True):
        cost = expected_usd(left, tier.pricing, max_tokens=tier.max_tokens, calls=calls)
        if cost is not None:
            told.append(f"{tier.name} about ${cost:.4f}")
        elif getattr(tier.pricing, "per_hour", None) is not None:
            told.append(f"{tier.name} by its busy time")
        else:
            told.append(f"{tier.name} has no price set")
        if not tier.local:
            hosted += math.inf if cost is None else float(cost)
    prices = ", ".join(told)
    say(f"{len(left)} examples to be asked of both models, {len(known)} are there: {prices}")
    if "no price" in prices:
        say("without a price nothing tells what is saved: --prices FILE (docs/prices.md)")
    if hosted <= up_to_usd:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"say --yes to spend this ({prices}); no person is there to be asked."
        )
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def fit(cascade: Cascade, path: Path, rows: Sequence[Example], **options: Any) -> Fitted:
    """A calibration on what was recorded."""
    with busy("fitting"):
        return asyncio.run(calibrate(cascade.kernel, path, **options))


def told(fitted: Fitted, to: Path, rule: tuple[str, float] | None) -> Iterator[str]:
    """A calibration in words, line by line."""
    made, q = fitted.calibration, fitted.calibration.quality
    area = "unknown" if q.auroc is None else f"{q.auroc:.3f}"
    yield f"{to}: {q.n} labelled drafts, {q.accuracy_small:.1%} of them right"
    yield f"  calibration error (ECE) {q.ece:.3f}, of the raw score {q.ece_raw:.3f}; AUROC {area}"
    for one in made.certificates:
        yield (
            f"  certified: P(accepted and wrong) ≤ {one.max_harm:.1%} with {1 - one.delta:.0%} "
            f"confidence, at confidence ≥ {one.threshold:.3f}; accepts {one.coverage:.0%}"
        )
        rule = "max_harm", made.certificates[0].max_harm
    yield from (f"  not certified: {refusal.reason}" for refusal in fitted.refusals)
    if fitted.evaluation:
        yield fitted.evaluation.sentence
    if made.recommendation.use:
        yield made.recommendation.text
        decided = "" if rule is None else f", {rule[0]}={rule[1]:g}"
        yield f"Use it: Cascade(…, calibrator='{to}'{decided})"


def judge(
    cascade: Cascade,
    rows: Sequence[Example],
    to: Path,
    how: Examples,
    at_once: int,
    assumed: Sequence[str] = (),
    **options: Any,
) -> None:
    """Record, fit, and write everything; a verdict, and what to do next."""
    collected = ask(cascade, rows, to / ANSWERS, how, at_once)
    fitted = fit(cascade, to / ANSWERS, rows, **options)
    files = write_artefacts(to, fitted, cascade.tiers, rows)
    found: Any = fitted.evaluation
    then = next_step(found, files["configuration"])
    show(
        found,
        "\n".join(f"Assumed: {price}." for price in assumed),
        f"wrote {', '.join(map(str, files.values()))}\nnext: {then}",
        recommendation=fitted.calibration.recommendation,
        files=files,
        collected=collected,
        next=then,
        assumed=assumed,
    )


def show(found: Evaluation, text: str = "", remark: str = "", **more: Any) -> None:
    """Write an evaluation, with `text` below it, and `more` for machines."""
    data = {"headline": found.sentence, **dict(found), **more}
    give(data, "\n".join(filter(None, [to_text(to_document(found)), text])), remark)


def next_step(found: Evaluation, configuration: Path) -> str:
    """The next command after a verdict."""
    serve = f"cascade serve {configuration}"
    if found.verdict == "unpriced":
        return "the same command with --prices FILE and another --out; see docs/prices.md"
    if found.verdict == "unclear" or (found.verdict == "off" and found.rows < FAIR_TEST):
        return "label more rows and type the same command: it asks the new ones alone"
    if found.verdict == "off":
        return f"leave it off, or try another --small; `{serve}` would measure it without using it"
    return serve

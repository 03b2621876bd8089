"""`cascade evaluate`: what a cascade is worth on recorded outcomes; nothing is called."""

from __future__ import annotations

import json as json_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli.console import busy, err, out, reports_errors, write_json
from cascade.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from cascade.evaluation.recorded import Recorded
    from cascade.evaluation.report import Evaluation
    from cascade.evaluation.transcripts import Transcript

EXAMPLE = (
    "Example: cascade evaluate answers.jsonl --small ollama:qwen2.5:3b --large openai:gpt-5.1 "
    "--price-of-error 0.05 --html report.html"
)


@reports_errors
def evaluate(  # noqa: PLR0913 - every one is an option of the command
    file: Annotated[Path, typer.Argument(help="Transcripts: JSON lines, plain or gzip.")],
    *,
    small: Annotated[str | None, typer.Option(help="The model that drafts, by its name.")] = None,
    large: Annotated[str | None, typer.Option(help="The model that is asked in doubt.")] = None,
    price_of_error: Annotated[
        float | None, typer.Option(help="Dollars that a wrong answer costs you.")
    ] = None,
    max_harm: Annotated[
        float | None, typer.Option(help="Bound on P(accepted and wrong), to be certified.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance that the bound does not hold.")] = 0.1,
    within: Annotated[
        float, typer.Option(help="Quality that may be lost against the large model.")
    ] = 0.01,
    caution: Annotated[
        float, typer.Option(help="Standard errors to keep from that when thresholds are chosen.")
    ] = 1.0,
    fit_share: Annotated[
        float, typer.Option(help="Share of the rows to fit on; figures are of the others.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the split and of the intervals.")] = 0,
    reuse: Annotated[
        Path | None,
        typer.Option(help="Write what reusing drafts is worth to this file, for Cascade(reuse=…)."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Replay recorded answers: what would a cascade have cost, and how right would it have been?"""
    recorded = _read(file, small, large)
    from cascade.evaluation import evaluating, report, text  # noqa: PLC0415 - heavy

    options = report.Options(
        fit_share=fit_share,
        seed=seed,
        epsilon=within,
        caution=caution,
        price_of_error=price_of_error,
        max_harm=max_harm,
        delta=delta,
    )
    with busy(f"fitting and measuring on {len(recorded):,} rows"):
        found = evaluating.evaluate(recorded, options)
    if reuse is not None:
        _write(reuse, _evidence(found, file))
    if html is not None:
        from cascade.evaluation.page import to_page  # noqa: PLC0415 - only where asked for

        _write(html, to_page(found).encode())
    if png is not None:
        from cascade.evaluation.plots import draw  # noqa: PLC0415 - only where asked for

        _write(png, b"")
        draw(found, png)
    if json:
        document = json_module.loads(found.model_dump_json())
        write_json(json_module.dumps(document, indent=2, ensure_ascii=False))
    else:
        out.print(text.render(found), markup=False)
        for path in (reuse, html, png):
            if path is not None:
                err.print(f"written: {path}", markup=False)


def _read(file: Path, small: str | None, large: str | None) -> Recorded:
    need_numbers("evaluate")
    from cascade.evaluation.recorded import record_pair  # noqa: PLC0415 - heavy
    from cascade.evaluation.transcripts import read_transcripts  # noqa: PLC0415 - heavy

    with busy(f"reading {file}"):
        rows = list(read_transcripts(file))
    return record_pair(rows, *_pair(rows, small, large))


def need_numbers(command: str) -> None:
    """Refuse a command that computes, where what it computes with is not installed.

    Raises:
        MissingDependencyError: the message names the extra.
    """
    missing = [name for name in ("numpy", "scipy", "sklearn") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"cascade {command} needs {', '.join(missing)}: pip install 'agent-cascade[calibrate]'."
        )


def _pair(rows: list[Transcript], small: str | None, large: str | None) -> tuple[str, str]:
    """The two models; of exactly two, the cheaper one is the small one."""
    counts: dict[str, int] = {}
    for row in rows:
        for name, outcome in row.models.items():
            if outcome.approved is not None:  # given after seeing the other one's draft
                continue
            counts[name] = counts.get(name, 0) + 1
    listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items())) or "none"
    for option, given in (("--small", small), ("--large", large)):
        if given is not None and given not in counts:
            raise ConfigurationError(
                f"{option} {given}: the file has no such model. Models with their rows: {listed}."
            )
    if small is not None and large is not None:
        if small == large:
            raise ConfigurationError(f"--small and --large are both {small}: name two models.")
        return small, large
    if len(counts) != 2:
        raise ConfigurationError(
            f"which two? Give --small and --large. Models with their rows: {listed}."
        )
    if small is not None or large is not None:
        other = next(name for name in counts if name not in (small, large))
        return small or other, large or other
    cheap, dear = sorted(counts, key=lambda name: _mean_cost(rows, name))
    return cheap, dear


def _mean_cost(rows: list[Transcript], model: str) -> float:
    costs = [row.models[model].cost_usd for row in rows if model in row.models]
    known = [cost for cost in costs if cost is not None]
    if not known:
        raise ConfigurationError(
            f"which is the small one? The costs of {model} are unknown: give --small and --large."
        )
    return sum(known) / len(known)


def _evidence(found: Evaluation, file: Path) -> bytes:
    if found.reviews is None:
        raise ConfigurationError(
            f"{file} does not say how {found.large} answered with the draft of {found.small} "
            "before it, or for too few questions. docs/reuse.md shows how to record it."
        )
    return f"{found.reviews.evidence.model_dump_json(indent=2)}\n".encode()


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error

"""`cascade shadow`: whether a shadow start may go live, by the runs in its ledger."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli.completing import ledgers
from cascade.cli.console import busy, err, fail, out, reports_errors, write_json
from cascade.cli.report import TIMES, must_exist, selection_of
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.confidence.calibrating import MadeFor
    from cascade.oversight.readiness import Readiness

EXAMPLE = (
    "Example: cascade shadow sqlite:///ledger.db --small ollama:qwen2.5:3b "
    "--large openai:gpt-5.1 --max-loss 0.02 --out calibration.json"
)
COLOURS = {"ready": "bold green", "not worth it": "bold red", "too early": "bold yellow"}


@reports_errors
def shadow(  # noqa: PLR0913 - the options of a command
    ledger: Annotated[
        str, typer.Argument(help="sqlite:///ledger.db or postgresql://…", autocompletion=ledgers)
    ],
    *,
    small: Annotated[str | None, typer.Option(help="Only runs with this small model.")] = None,
    large: Annotated[str | None, typer.Option(help="Only runs with this large model.")] = None,
    max_loss: Annotated[
        float, typer.Option(help="Quality loss per request that is allowed.")
    ] = 0.01,
    min_saving: Annotated[
        float, typer.Option(help="Share of the large-only bill that has to be saved.")
    ] = 0.0,
    max_harm: Annotated[
        float | None,
        typer.Option(help="Certify P(accepted and worse than the large model) at most this."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance that a certificate does not hold.")] = 0.1,
    threshold: Annotated[
        float | None, typer.Option(help="Of calibrated confidence, instead of the best one.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="From this time on, in UTC.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.001, help="The last so many days, instead of --since.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this tag; repeatable.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--out", help="Write the calibration here; needs --small and --large."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="As in your cascade, for --out.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="As in your cascade, for --out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say whether a shadow start is ready to go live, what it would save, and what it would lose.

    For a cascade with tools or a response format, `await cascade.readiness()` makes the
    calibration.
    """
    from cascade.oversight.starting import require_calibrate  # noqa: PLC0415 - heavy

    require_calibrate()
    selection = selection_of(since, None, days, tag or [])
    if (small is None) != (large is None):
        raise ConfigurationError("give both --small and --large, or neither.")
    if to is not None and small is None:
        raise ConfigurationError("--out needs --small and --large: a calibration is for them only.")
    if to is not None and (to.is_dir() or not to.absolute().parent.is_dir()):
        raise ConfigurationError(f"--out {to}: a file in a folder that exists is needed.")
    must_exist(ledger)

    async def judged() -> Readiness:
        from cascade.ledger.store import open_store  # noqa: PLC0415 - heavy
        from cascade.oversight.readiness import readiness  # noqa: PLC0415 - heavy

        made_for = None
        if small is not None and large is not None:
            made_for = await _made_for(small, large, max_tokens, temperature)
        async with open_store(ledger, read_only=True) as store:
            return await readiness(
                store,
                selection,
                max_loss=max_loss,
                min_saving=min_saving,
                max_harm=max_harm,
                delta=delta,
                threshold=threshold,
                made_for=made_for,
            )

    with busy("reading the ledger"):
        found = asyncio.run(judged())
    _show(found, to, json=json)


async def _made_for(
    small: str, large: str, max_tokens: int | None, temperature: float | None
) -> MadeFor:
    from cascade.agents import Task  # noqa: PLC0415 - heavy
    from cascade.oversight.starting import made_for  # noqa: PLC0415 - heavy
    from cascade.tiers import Tier, open_tiers  # noqa: PLC0415 - heavy

    settings = [Tier(m, max_tokens=max_tokens, temperature=temperature) for m in (small, large)]
    return await made_for(open_tiers(settings, ("small", "large")), Task())


def _show(found: Readiness, to: Path | None, *, json: bool) -> None:
    if json:
        write_json(found.model_dump_json(indent=2))
    else:
        verdict, rest = found.text().split("\n", 1)
        out.print(verdict, style=COLOURS[found.verdict], markup=False)
        out.print(rest, markup=False)
    if to is None:
        return
    if found.calibration is None:
        fail("there are too few rows for a calibration; none was written", 1)
    found.calibration.save(to)
    err.print(f"written: {to}", markup=False)

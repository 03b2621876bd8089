"""`cascade calibration`: which version of a calibration all replicas of a service use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cascade.cli.console import out, print_json, reports_errors
from cascade.cli.keys import Json, Where, address_of, with_opened

if TYPE_CHECKING:
    from cascade.service.shared.calibrations import Calibrations, RolledOut

T = TypeVar("T")

EXAMPLE = (
    "Example: cascade calibration push cascade.yaml support calibration.json --note 'May' && "
    "cascade calibration status cascade.yaml"
)
Which = Annotated[str, typer.Argument(help="The cascade, as clients call it.")]
Wait = Annotated[float, typer.Option(help="Seconds that replicas may take to prepare it.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Roll calibrations out to all replicas of a service at once.",
    epilog=EXAMPLE,
)


@app.command()
@reports_errors
def push(
    where: Where,
    cascade: Which,
    file: Annotated[Path, typer.Argument(help="Made by cascade calibrate.")],
    *,
    note: Annotated[str, typer.Option(help="What people should know of it.")] = "",
    wait: Wait = 60.0,
    json: Json = False,
) -> None:
    """Keep a calibration as the next version, and use it in all replicas, or in none."""
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - heavy

    address = address_of(where, cascade=cascade)
    document = Calibration.load(file).model_dump_json()
    done = _with_calibrations(
        address, lambda found: found.push(cascade, document, note=note, wait_s=wait)
    )
    _say(done, json)


@app.command()
@reports_errors
def rollback(
    where: Where,
    cascade: Which,
    *,
    to: Annotated[
        int | None,
        typer.Option(help="This version; 0: that of the configuration. [default: the one before]"),
    ] = None,
    wait: Wait = 60.0,
    json: Json = False,
) -> None:
    """Use an older version again, in all replicas or in none."""
    address = address_of(where, cascade=cascade)
    done = _with_calibrations(address, lambda found: found.rollback(cascade, to=to, wait_s=wait))
    _say(done, json)


@app.command()
@reports_errors
def status(where: Where, *, json: Json = False) -> None:
    """Show which version of each cascade is in use, and by which replicas."""
    found = _with_calibrations(address_of(where), lambda calibrations: calibrations.status())
    if json:
        print_json(found)
        return
    for one in found:
        note = f" ({one.note})" if one.note else ""
        out.print(
            f"{one.cascade}  version {one.version}{note} since {one.since:%Y-%m-%d %H:%M:%S} UTC; "
            f"there are {', '.join(map(str, one.versions)) or 'none'}",
            markup=False,
        )
        for replica, uses_it in one.replicas.items():
            out.print(f"  {replica}  {'uses it' if uses_it else 'does not use it'}", markup=False)


def _say(rolled_out: RolledOut, json: bool) -> None:
    if json:
        print_json(rolled_out)
        return
    n = len(rolled_out.replicas)
    out.print(
        f"{rolled_out.cascade}: version {rolled_out.version} is in use; {n} "
        f"replica{'s' * (n != 1)} had prepared it after {rolled_out.waited_s:.1f} s",
        markup=False,
    )


def _with_calibrations(address: str, work: Callable[[Calibrations], Awaitable[T]]) -> T:
    from cascade.service.shared.calibrations import Calibrations  # noqa: PLC0415 - heavy

    return with_opened(lambda: Calibrations(address), work)

"""`cascade keys`: who may ask a service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from cascade.cli.completing import configurations
from cascade.cli.console import err, fail, out, print_json, reports_errors
from cascade.cli.report import must_exist
from cascade.cli.serve import require_service
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.service.keys import Key, Keys


class Closable(Protocol):
    """What is closed in the loop in which it was used."""

    async def aclose(self) -> None:
        """Close its connections."""


C = TypeVar("C", bound=Closable)
T = TypeVar("T")

EXAMPLE = (
    "Example: cascade keys create cascade.yaml search-team --day-usd 5 --per-minute 120 "
    "--tag team=search"
)
Where = Annotated[
    str,
    typer.Argument(
        help="The service's configuration, or its ledger's address.", autocompletion=configurations
    ),
]
Which = Annotated[str, typer.Argument(help="Its id, or its name if only one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list, rotate and revoke the API keys of a service.",
    epilog=EXAMPLE,
)


@app.command()
@reports_errors
def create(
    where: Where,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may ask for; repeatable. All by default.")
    ] = None,
    per_minute: Annotated[float | None, typer.Option(help="Requests per minute.")] = None,
    day_usd: Annotated[str | None, typer.Option(help="Dollars per day of UTC.")] = None,
    month_usd: Annotated[str | None, typer.Option(help="Dollars per month of UTC.")] = None,
    exhausted: Annotated[
        str | None,
        typer.Option(help="refuse or local_only, once they are spent; else as configured."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of its entries; repeatable.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It opens /admin and the page.")] = False,
    json: Json = False,
) -> None:
    """Make a key and print it. It is kept as a hash: nobody can print it again."""
    from cascade.cli.report import selection_of  # noqa: PLC0415 - heavy

    if exhausted not in (None, "refuse", "local_only"):
        raise ConfigurationError(f"--exhausted {exhausted}: give refuse or local_only.")
    address = address_of(where, models=model or [])
    settings = {
        "models": tuple(model or ()),
        "per_minute": per_minute,
        "day_usd": _dollars("--day-usd", day_usd),
        "month_usd": _dollars("--month-usd", month_usd),
        "exhausted": exhausted,
        "tags": selection_of(None, None, None, tag or []).tags,
        "admin": admin,
    }
    key, secret = _with_keys(address, lambda keys: keys.create(name, **settings))
    _show_once(key, secret, json)


@app.command(name="list")
@reports_errors
def list_keys(
    where: Where,
    *,
    json: Json = False,
) -> None:
    """Show all keys, without their secrets."""
    address = address_of(where)
    must_exist(address)
    found = _with_keys(address, lambda keys: keys.list())
    if json:
        print_json([_shown(key) for key in found])
        return
    for key in found:
        state = "valid" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        bounds = [
            "admin" if key.admin else "",
            ",".join(key.models) or "all models",
            "" if key.per_minute is None else f"{key.per_minute:g}/min",
            "" if key.day_usd is None else f"${key.day_usd:f}/day",
            "" if key.month_usd is None else f"${key.month_usd:f}/month",
            *(f"{tag}={value}" for tag, value in key.tags.items()),
        ]
        out.print("  ".join([key.id, key.name, state, *filter(None, bounds)]), markup=False)


@app.command()
@reports_errors
def revoke(where: Where, key: Which, *, json: Json = False) -> None:
    """Revoke a key; a running service refuses it within seconds."""
    address = address_of(where)
    must_exist(address)
    gone = _with_keys(address, lambda keys: keys.revoke(key))
    if json:
        print_json(_shown(gone))
    else:
        out.print(f"{gone.id} ({gone.name}) is revoked", markup=False)


@app.command()
@reports_errors
def rotate(where: Where, key: Which, *, json: Json = False) -> None:
    """Give a key a new secret and print it; the old one is refused within seconds."""
    address = address_of(where)
    must_exist(address)
    changed, secret = _with_keys(address, lambda keys: keys.rotate(key))
    _show_once(changed, secret, json)


def address_of(where: str, *, models: list[str] | None = None, cascade: str | None = None) -> str:
    """The ledger's address; models and the cascade are checked if the configuration is known."""
    require_service()
    if "://" in where:
        return where
    from cascade.service.building import build_service  # noqa: PLC0415 - heavy
    from cascade.service.reading import read_settings  # noqa: PLC0415 - heavy

    settings = read_settings(Path(where))
    ledger = settings.config.ledger
    if ledger is None or ledger.url.startswith("memory:"):
        raise ConfigurationError(f"{where}: keys are kept in the ledger's database: set ledger.")
    cascades = settings.config.cascades
    if cascade is not None and cascade not in cascades:
        raise ConfigurationError(f"{cascade}: {where} has {', '.join(cascades)}.")
    if models:
        there = build_service(settings.config, settings.path.parent).models(None)
        for model in models:
            if model not in there:
                fail(f"--model {model}: there is no such model; there are {', '.join(there)}", 2)
    return ledger.url


def with_opened(make: Callable[[], C], work: Callable[[C], Awaitable[T]]) -> T:
    """What work gives with something that is made for it in a loop, and closed afterwards."""

    async def run() -> T:
        opened = make()
        try:
            return await work(opened)
        finally:
            await opened.aclose()

    return asyncio.run(run())


def _with_keys(address: str, work: Callable[[Keys], Awaitable[T]]) -> T:
    from cascade.service.keys import Keys  # noqa: PLC0415 - heavy

    return with_opened(lambda: Keys(address), work)


def _show_once(key: Key, secret: str, json: bool) -> None:
    if json:
        print_json({**_shown(key), "secret": secret})
        return
    out.print(secret, markup=False)
    err.print(f"{key.id} ({key.name}): keep it; it is shown only now", markup=False)


def _dollars(option: str, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        return Decimal(text.removeprefix("$"))
    except InvalidOperation:
        raise ConfigurationError(f"{option} {text}: dollars, such as 5 or 0.50.") from None


def _shown(key: Key) -> dict[str, object]:
    hidden = ("digest",)
    return {name: getattr(key, name) for name in key.__slots__ if name not in hidden}

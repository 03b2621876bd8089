"""`cascade serve` and `cascade keys`: the gateway, and who may use it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from cascade.cli.console import print_json, say, show
from cascade.cli.options import Json, dollars, to_tags
from cascade.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from cascade.service.keys import Key, Keys

T = TypeVar("T")

EXAMPLE = "Example: cascade serve cascade.yaml --check"

KEYS_EXAMPLE = (
    "Example: cascade keys create cascade.yaml search-team --day-usd 5 --per-minute 120 "
    "--tag team=search"
)

EXAMPLE_CONFIG = """\
# `cascade serve cascade.yaml`
listen: {host: 127.0.0.1, port: 8000}
ledger: {url: "sqlite:///ledger.db"}
cascades:
  default:
    tiers:
      - {name: small, model: "ollama:qwen2.5:3b"}
      - {name: large, model: "openai:gpt-5.1", api_key: "${OPENAI_API_KEY}"}
    threshold: 0.8
    audits: {rate: 0.05}
"""


def serve(
    config: Annotated[Path | None, typer.Argument(help="The configuration, cascade.yaml.")] = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Say what would run, and leave.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a configuration to begin with.")
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key; on this machine alone.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Instead of listen.port.")] = None,
    workers: Annotated[int, typer.Option(help="Processes on this port.")] = 1,
    json: Json = False,
) -> None:
    """Serve cascades to clients of OpenAI, Anthropic and Ollama, with keys, budgets and a page."""
    if example:
        sys.stdout.write(EXAMPLE_CONFIG)
        return
    if config is None:
        raise ConfigurationError(
            "name the configuration; `cascade serve --example > cascade.yaml` makes one."
        )
    missing = [name for name in ("fastapi", "uvicorn", "yaml") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{' and '.join(missing)} not installed: install the extra `service`."
        )
    from cascade.service import describe, read_config  # noqa: PLC0415 - heavy
    from cascade.service import serve as run  # noqa: PLC0415

    overrides: dict[str, Any] = {"auth": False} if no_auth else {}
    if port is not None:
        overrides["listen"] = {"port": port}
    configured = read_config(config, overrides=overrides)
    if not check:
        run(configured, workers=workers)
        return
    lines = describe(configured)
    if json:
        print_json({"serves": lines})
    else:
        show("\n".join(lines))


Where = Annotated[str, typer.Argument(help="The service's configuration, or its ledger's address.")]
Which = Annotated[str, typer.Argument(help="Its id, or its name if there is only one.")]

keys = typer.Typer(
    no_args_is_help=True,
    help="Make, list, rotate and revoke the API keys of a service.",
    epilog=KEYS_EXAMPLE,
    pretty_exceptions_enable=False,
)


@keys.command()
def create(
    where: Where,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="Model it may ask for; repeatable. All by default.")
    ] = None,
    per_minute: Annotated[float | None, typer.Option(help="Requests per minute.")] = None,
    day_usd: Annotated[Decimal | None, dollars("Dollars per day of UTC.")] = None,
    month_usd: Annotated[Decimal | None, dollars("Dollars per month of UTC.")] = None,
    exhausted: Annotated[
        Literal["refuse", "local_only"] | None,
        typer.Option(help="Once they are spent; else as configured."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of its entries; repeatable.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It opens /admin and the page.")] = False,
    json: Json = False,
) -> None:
    """Make a key and print it. It is kept as a hash and cannot be printed again."""
    settings = {
        "models": tuple(model or ()),
        "per_minute": per_minute,
        "day_usd": day_usd,
        "month_usd": month_usd,
        "exhausted": exhausted,
        "tags": to_tags(tag),
        "admin": admin,
    }
    _show_once(*_with_keys(where, lambda kept: kept.create(name, **settings)), json)


@keys.command(name="list")
def list_keys(where: Where, *, json: Json = False) -> None:
    """Show all keys, without their secrets."""
    found = _with_keys(where, lambda kept: kept.list())
    if json:
        print_json([key.shown() for key in found])
        return
    for key in found:
        state = "valid" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        limits = {
            "{:g}/min": key.per_minute,
            "${:f}/day": key.day_usd,
            "${:f}/month": key.month_usd,
        }
        bounds = [form.format(n) for form, n in limits.items() if n is not None]
        tags = [f"{tag}={value}" for tag, value in key.tags.items()]
        may = ["admin"] * key.admin + [",".join(key.models) or "all models"]
        show("  ".join([key.id, key.name, state, *may, *bounds, *tags]))


@keys.command()
def rotate(where: Where, which: Which, *, json: Json = False) -> None:
    """Give a key a new secret; the old one ends at once."""
    _show_once(*_with_keys(where, lambda kept: kept.rotate(which)), json)


@keys.command()
def revoke(where: Where, which: Which, *, json: Json = False) -> None:
    """End a key for good."""
    key = _with_keys(where, lambda kept: kept.revoke(which))
    if json:
        print_json(key.shown())
    else:
        show(f"{key.id} {key.name} is revoked")


def _show_once(key: Key, secret: str, as_json: bool) -> None:
    if as_json:
        print_json({**key.shown(), "secret": secret})
    else:
        show(secret)
        say(f"{key.id} {key.name}: this is the only time that it is shown")


def _with_keys(where: str, work: Callable[[Keys], Awaitable[T]]) -> T:
    """Do something with the keys of a service.

    Raises:
        ConfigurationError: there is no such configuration, or it keeps no ledger.
    """
    from cascade.service.keys import Keys  # noqa: PLC0415 - heavy

    url = where if "://" in where else _ledger_of(Path(where))
    if url.startswith("memory:"):
        raise ConfigurationError(f"{where}: keys in memory are gone at once: give a database.")

    async def run() -> T:
        kept = Keys(url)
        try:
            return await work(kept)
        finally:
            await kept.aclose()

    return asyncio.run(run())


def _ledger_of(path: Path) -> str:
    """The ledger's address in a configuration; it needs none of the models' secrets."""
    from cascade.service.config import read_config  # noqa: PLC0415 - heavy

    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such configuration.")
    text = path.read_text(encoding="utf-8", errors="replace")
    unset = {name: f"${{{name}}}" for name in re.findall(r"\$\{(\w+)\}", text)}
    known = {name: value for name, value in os.environ.items() if value}
    ledger = read_config(path, environment=unset | known).config.ledger
    if ledger is None:
        raise ConfigurationError(f"{path} has no ledger: keys are kept beside it.")
    if "${" in ledger.url:
        raise ConfigurationError(f"{path}: ledger {ledger.url}: that variable is not set.")
    return ledger.url

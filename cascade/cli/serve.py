"""`cascade serve` and `cascade keys`: the gateway, and who may use it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer import Argument, Option

from cascade.cli.console import give
from cascade.cli.options import Amount, Count, File, Number, Texts, need, spread, to_tags
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.service.keys import Key, Keys

T = TypeVar("T")

EXAMPLE_CONFIG = """\
# `cascade serve cascade.yaml`
listen: {host: 127.0.0.1, port: 8000}
ledger: sqlite:///ledger.db
cascades:
  default:
    tiers:
      - {name: small, model: "ollama:qwen2.5:3b"}
      - {name: large, model: "openai:gpt-5.1", api_key_env: OPENAI_API_KEY}
    threshold: 0.8
    audits: {rate: 0.05}
"""


@spread
def serve(
    config: Annotated[File, Argument(help="The configuration, cascade.yaml.")] = None,
    *,
    check: Annotated[bool, Option("--check", help="Say what would run, and leave.")] = False,
    example: Annotated[bool, Option("--example", help="Print one to begin with.")] = False,
    no_auth: Annotated[bool, Option("--no-auth", help="Ask for no key; on loopback.")] = False,
    port: Annotated[Count, Option(help="Instead of listen.port.")] = None,
    workers: Annotated[int, Option(help="Processes on this port.")] = 1,
) -> None:
    """Serve cascades to clients of OpenAI, Anthropic and Ollama, with keys, budgets and a page."""
    if example:
        sys.stdout.write(EXAMPLE_CONFIG)
        return
    if config is None:
        raise ConfigurationError(
            "name the configuration; `cascade serve --example > cascade.yaml` makes one."
        )
    need("service")
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
    give({"serves": lines}, "\n".join(lines))


Where = Annotated[str, Argument(help="The service's configuration, or its ledger's address.")]
Which = Annotated[str, Argument(help="Its id, or its name if there is only one.")]

keys = typer.Typer(
    no_args_is_help=True, help="Make, list, rotate and revoke the API keys of a service."
)


@keys.command()
@spread
def create(
    where: Where,
    name: Annotated[str, Argument(help="Whose key it is.")],
    *,
    model: Annotated[Texts, Option(help="It may ask for; repeatable. All by default.")] = None,
    per_minute: Annotated[Number, Option(help="Requests per minute.")] = None,
    day_usd: Annotated[Amount, Option(help="Dollars per day of UTC.", min=0)] = None,
    month_usd: Annotated[Amount, Option(help="Dollars per month of UTC.", min=0)] = None,
    exhausted: Annotated[
        Literal["refuse", "local_only"] | None, Option(help="Once spent; else as configured.")
    ] = None,
    tag: Annotated[Texts, Option(metavar="NAME=VALUE", help="Of its entries; repeatable.")] = None,
    admin: Annotated[bool, Option("--admin", help="It opens /admin and the page.")] = False,
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
    _show_once(*_with_keys(where, lambda kept: kept.create(name, **settings)))


@keys.command(name="list")
@spread
def list_keys(where: Where) -> None:
    """Show all keys, without their secrets."""
    found = _with_keys(where, lambda kept: kept.list())
    remark = "" if found else f"no keys yet: `cascade keys create {where} NAME` makes one"
    give([key.shown() for key in found], "\n".join(map(_line, found)), remark)


def _line(key: Key) -> str:
    state = "valid" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    limits = {"{:g}/min": key.per_minute, "${:f}/day": key.day_usd, "${:f}/month": key.month_usd}
    bounds = [form.format(n) for form, n in limits.items() if n is not None]
    tags = [f"{tag}={value}" for tag, value in key.tags.items()]
    may = ["admin"] * key.admin + [",".join(key.models) or "all models"]
    return "  ".join([key.id, key.name, state, *may, *bounds, *tags])


@keys.command()
@spread
def rotate(where: Where, which: Which) -> None:
    """Give a key a new secret; the old one ends at once."""
    _show_once(*_with_keys(where, lambda kept: kept.rotate(which)))


@keys.command()
@spread
def revoke(where: Where, which: Which) -> None:
    """End a key for good."""
    key = _with_keys(where, lambda kept: kept.revoke(which))
    give(key.shown(), f"{key.id} {key.name} is revoked")


def _show_once(key: Key, secret: str) -> None:
    told = f"{key.id} {key.name}: this is the only time that it is shown"
    give({**key.shown(), "secret": secret}, secret, told)


def _with_keys(where: str, work: Callable[[Keys], Awaitable[T]]) -> T:
    """What some work on the keys of a service gives."""
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

    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    unset = {name: f"${{{name}}}" for name in re.findall(r"\$\{(\w+)\}", text)}
    known = {name: value for name, value in os.environ.items() if value}
    ledger = read_config(path, environment=unset | known).config.ledger
    if ledger is None:
        raise ConfigurationError(f"{path} has no ledger: keys are kept beside it.")
    if "${" in ledger:
        raise ConfigurationError(f"{path}: ledger {ledger}: that variable is not set.")
    return ledger

"""`cascade serve` and `cascade keys`: the gateway, and who may use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option

from cascade.cli.console import give
from cascade.cli.options import (
    Amount,
    Count,
    Number,
    Texts,
    must_be_there,
    spread,
    to_tags,
    using,
)
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.service.keys import Key, Keys

T = TypeVar("T")


@spread
def serve(
    config: Annotated[Path, Argument(help="The configuration, cascade.yaml; see docs/service.md.")],
    *,
    check: Annotated[bool, Option("--check", help="Say what would run, and leave.")] = False,
    no_auth: Annotated[bool, Option("--no-auth", help="Ask for no key; on loopback.")] = False,
    port: Annotated[Count, Option(help="Instead of listen.port.")] = None,
) -> None:
    """Serve cascades to clients of OpenAI, Anthropic and Ollama, with keys, budgets and a page."""
    from cascade import service  # noqa: PLC0415 - heavy

    overrides: dict[str, Any] = {"auth": False} if no_auth else {}
    if port is not None:
        overrides["listen"] = {"port": port}
    configured = service.read_config(config, overrides=overrides)
    if check:
        lines = service.describe(configured)
        give({"serves": lines}, "\n".join(lines))
    else:
        service.serve(configured)


Where = Annotated[str, Argument(help="The service's configuration, or its ledger's address.")]
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of a service.")


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
    tag: Annotated[Texts, Option(metavar="NAME=VALUE", help="Of its entries; repeatable.")] = None,
    admin: Annotated[bool, Option("--admin", help="It opens /admin and the page.")] = False,
) -> None:
    """Make a key and print it. It is kept as a hash and cannot be printed again."""
    given: dict[str, Any] = {"models": tuple(model or ()), "tags": to_tags(tag), "admin": admin}
    given |= {"per_minute": per_minute, "day_usd": day_usd, "month_usd": month_usd}
    key, secret = _with_keys(where, lambda kept: kept.create(name, **given), make=True)
    told = f"{key.id} {key.name}: this is the only time that it is shown"
    give({**key.model_dump(), "secret": secret}, secret, told)


@keys.command(name="list")
@spread
def list_keys(where: Where) -> None:
    """Show all keys, without their secrets."""
    found = _with_keys(where, lambda kept: kept.list())
    remark = "" if found else f"no keys yet: `cascade keys create {where} NAME` makes one"
    give([key.model_dump() for key in found], "\n".join(map(_line, found)), remark)


def _line(key: Key) -> str:
    state = "valid" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    limits = {"{:g}/min": key.per_minute, "${:f}/day": key.day_usd, "${:f}/month": key.month_usd}
    bounds = [form.format(n) for form, n in limits.items() if n is not None]
    tags = [f"{tag}={value}" for tag, value in key.tags.items()]
    may = ["admin"] * key.admin + [",".join(key.models) or "all models"]
    return "  ".join([key.id, key.name, state, *may, *bounds, *tags])


@keys.command()
@spread
def revoke(
    where: Where,
    key_id: Annotated[str, Argument(help="Its id, of `cascade keys list`.")],
) -> None:
    """End a key for good."""
    key = _with_keys(where, lambda kept: kept.revoke(key_id))
    give(key.model_dump(), f"{key.id} {key.name} is revoked")


def _with_keys(where: str, work: Callable[[Keys], Awaitable[T]], *, make: bool = False) -> T:
    from cascade.service.config import read_config  # noqa: PLC0415 - heavy
    from cascade.service.keys import Keys  # noqa: PLC0415

    url = where if "://" in where else read_config(where).config.ledger
    if url is None or url.startswith("memory:"):
        raise ConfigurationError(f"{where} has no ledger in a database: keys are kept beside it.")
    if url == where and not make:
        must_be_there(url)
    return using(aclosing(Keys(url)), work)

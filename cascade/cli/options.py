"""Options that commands share by type: models, prices, temperature, system message.

One word means one thing: `--calibration` is a file, `--prices` is a file, `--small` and `--large`
are model strings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade

EMBEDDED = "llamacpp:smollm2-135m"
"""The model that comes as a package, and drafts where no other is named."""

NO_LARGE = (
    "there is no large model: name it with --large, or once for all with "
    "`export CASCADE_LARGE=openai:gpt-5.1`; `cascade doctor` shows what is within reach."
)


def number(
    text: str, kind: type[Any], wanted: str, holds: Callable[[Any], bool] = lambda value: True
) -> typer.models.OptionInfo:
    """An option that takes a number for which something holds.

    Args:
        text: help.
        kind: `float` or `Decimal`.
        wanted: what is told where it does not hold.
        holds: of the number.
    """

    def parse(given: str) -> Any:
        try:
            value = kind(given)
            if not (math.isfinite(value) and holds(value)):
                raise ValueError(given)
        except (ValueError, InvalidOperation):
            raise typer.BadParameter(f"{given}: {wanted}.") from None
        return value

    option: typer.models.OptionInfo = typer.Option(help=text, parser=parse, metavar="NUMBER")
    return option


def dollars(text: str, kind: type[Any] = Decimal) -> typer.models.OptionInfo:
    """An option that takes dollars."""
    return number(text, kind, "dollars, above 0", lambda usd: usd > 0)


def probability(text: str) -> typer.models.OptionInfo:
    """An option that takes a probability."""
    return number(text, float, "a probability is between 0 and 1", lambda p: 0 < p < 1)


Small = Annotated[str, typer.Option(envvar="CASCADE_SMALL", help="Model that drafts.")]
Large = Annotated[
    str | None, typer.Option(envvar="CASCADE_LARGE", help="Model for what is doubtful.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Accept drafts at this confidence and above.")
]
PriceOfError = Annotated[float | None, dollars("Dollars that a wrong answer costs you.", float)]
MaxTokens = Annotated[int | None, typer.Option(help="Limit of the length of answers, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(help="Of both models; 0 for short labels, by default theirs.")
]
System = Annotated[str | None, typer.Option(help="System message before each question.")]
Prices = Annotated[
    Path | None, typer.Option(help="File of prices (TOML), by model string; see docs/prices.md.")
]
Calibration = Annotated[Path | None, typer.Option(help="File that `cascade calibrate` has made.")]
LedgerUrl = Annotated[
    str | None,
    typer.Option("--ledger", help="Ledger to write to: sqlite:///ledger.db, postgresql://…"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page as well.")]
Figures = Annotated[Path | None, typer.Option("--figures", help="Write the pictures: .svg.")]


def pair(opened: ExitStack, *, small: str, large: str | None, **options: Any) -> Cascade:
    """The cascade of two models, or of the small one alone where nothing may leave this machine; it
    is closed with `opened`.

    Args:
        opened: closes the cascade and its ledger.
        small: model that drafts.
        large: model for what is doubtful.
        options: `prices`, `max_tokens`, `temperature` of the tiers, `ledger` as an address, and
            those of `Cascade`.

    Raises:
        ConfigurationError: there is no large model, or the options cannot work.
    """
    from cascade.api import Cascade  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.ledger.prices import load_prices  # noqa: PLC0415
    from cascade.tiers import Tier  # noqa: PLC0415

    alone = large is None and options.get("local_only") == "answer"
    if large is None and not alone:
        raise ConfigurationError(NO_LARGE)
    common = {name: options.pop(name, None) for name in ("max_tokens", "temperature")}
    prices, url = options.pop("prices", None), options.pop("ledger", None)
    common["price"] = None if prices is None else load_prices(prices)
    models = {"small": small} if large is None else {"small": small, "large": large}
    store: Any = None
    if url is not None:
        from cascade.ledger import open_store  # noqa: PLC0415 - SQLAlchemy

        store = opened.enter_context(open_store(url))
    tiers = [Tier(_model(model), name=name, **common) for name, model in models.items()]
    return opened.enter_context(Cascade(tiers=tiers, ledger=store, **options))


def _model(name: str) -> Any:
    """A model by name; `agent:NAME` is an agent of a recording."""
    if not name.startswith("agent:"):
        return name
    from cascade.integrations.agent_tier import recorded_agent  # noqa: PLC0415 - heavy

    return recorded_agent(name.removeprefix("agent:"))


def to_tags(given: Sequence[str] | None) -> dict[str, str]:
    """Tags that were typed as `name=value`.

    Raises:
        ConfigurationError: one of them is not of that form.
    """
    tags = {}
    for typed in given or ():
        name, separator, value = typed.partition("=")
        if not (name and separator):
            raise ConfigurationError(f"--tag {typed!r}: write name=value.")
        tags[name] = value
    return tags


def must_exist(url: str) -> None:
    """Refuse an address at which there is nothing: to open a database makes it.

    Raises:
        ConfigurationError: it is no address, or its file is not there.
    """
    from cascade.ledger.database import database_url  # noqa: PLC0415 - SQLAlchemy

    kind, address = database_url(url)
    path = Path(address.removeprefix("sqlite:///").partition("?")[0])
    if kind == "memory" or (kind == "sqlite" and not path.is_file()):
        raise ConfigurationError(f"{url}: there is no such database; nothing was made.")

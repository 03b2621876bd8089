"""Options that commands share by type: models, prices, temperature, system message.

One word means one thing: `--calibration` is a file, `--prices` is a file, `--small` and `--large`
are model strings.
"""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.ledger.prices import Price
    from cascade.tiers import Tier

EMBEDDED = "llamacpp:smollm2-135m"
"""The model that comes as a package, and drafts where no other is named."""

Small = Annotated[str, typer.Option(envvar="CASCADE_SMALL", help="Model that drafts.")]
Large = Annotated[
    str | None, typer.Option(envvar="CASCADE_LARGE", help="Model for what is doubtful.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Accept drafts at this confidence and above.")
]
PriceOfError = Annotated[float | None, typer.Option(help="Dollars that a wrong answer costs you.")]
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


def to_usd(text: str) -> Decimal:
    """Dollars that were typed."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not (amount.is_finite() and amount > 0):
        raise typer.BadParameter(f"{text}: dollars, above 0")
    return amount


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page as well.")]

NO_LARGE = (
    "there is no large model: name it with --large, or once for all with "
    "`export CASCADE_LARGE=openai:gpt-5.1`; `cascade doctor` shows what is within reach."
)


def tiers(
    small: str,
    large: str | None,
    *,
    prices: Path | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> tuple[Tier, Tier]:
    """The two tiers that are meant.

    Raises:
        ConfigurationError: there is no large model, or the prices cannot be read.
    """
    from cascade.ledger.prices import load_prices  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.tiers import Tier  # noqa: PLC0415

    if large is None:
        raise ConfigurationError(NO_LARGE)
    table: Any = None if prices is None else load_prices(prices)
    common: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "price": table}
    return Tier(_model(small), name="small", **common), Tier(_model(large), name="large", **common)


def _model(name: str) -> Any:
    """A model by name; `agent:NAME` is an agent of a recording."""
    if not name.startswith("agent:"):
        return name
    from cascade.integrations.agent_tier import recorded_agent  # noqa: PLC0415 - heavy

    return recorded_agent(name.removeprefix("agent:"))


def pair(opened: ExitStack, small: str, large: str | None, **options: Any) -> Cascade:
    """The cascade of two models; it is closed with `opened`.

    Args:
        opened: closes the cascade and its ledger.
        small: model that drafts.
        large: model for what is doubtful.
        options: `prices`, `max_tokens`, `temperature` of the tiers, `ledger` as an address, and
            those of `Cascade`.

    Raises:
        ConfigurationError: the options cannot work.
    """
    from cascade.api import Cascade  # noqa: PLC0415 - heavy, keeps --help fast

    of_tiers = {name: options.pop(name, None) for name in ("prices", "max_tokens", "temperature")}
    url = options.pop("ledger", None)
    pair_of_tiers = tiers(small, large, **of_tiers)
    store: Any = None
    if url is not None:
        from cascade.ledger import open_store  # noqa: PLC0415 - SQLAlchemy

        store = opened.enter_context(open_store(url))
    return opened.enter_context(Cascade(*pair_of_tiers, ledger=store, **options))


def tokens_price(option: str, text: str) -> Price:
    """The price in `IN,OUT`, dollars per 1M tokens.

    Raises:
        ConfigurationError: it is not of that form.
    """
    from cascade.ledger.prices import Price  # noqa: PLC0415 - heavy, keeps --help fast

    try:
        price_in, price_out = (Decimal(part) for part in text.split(","))
    except (ValueError, InvalidOperation):
        raise ConfigurationError(
            f"{option} {text!r}: write two prices with a comma, dollars per 1M input and output "
            f"tokens: {option} 1.25,10."
        ) from None
    return Price(input=price_in, output=price_out)


def list_price(model: str, option: str) -> Any:
    """The list price of a model string.

    Raises:
        ConfigurationError: there is none, or it is no model string.
    """
    from cascade.ledger.prices import ListPrice, find_pricing  # noqa: PLC0415 - heavy

    provider, colon, name = model.partition(":")
    if not (provider and colon and name):
        raise ConfigurationError(f"{model!r} is no model string: write openai:gpt-5.1.")
    local = provider in ("llamacpp", "ollama", "replay")
    found = find_pricing(provider, name, local=local, base_url=None)
    if isinstance(found, ListPrice):
        return found
    raise ConfigurationError(f"there is no list price of {model}: give {option} IN,OUT.")


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

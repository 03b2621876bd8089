"""Prices of models as options of a command: a model string with a list price, or two figures."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.ledger import ListPrice, Price

LOCAL = frozenset({"llamacpp", "ollama", "replay"})


def price_of_large(model: str | None, tokens: str | None) -> Price | ListPrice:
    """The price behind --large and --large-price.

    Raises:
        ConfigurationError: neither is given, or there is no such price.
    """
    if tokens is not None:
        return tokens_price("--large-price", tokens)
    if model is None:
        raise ConfigurationError("the large model has no price: give --large or --large-price.")
    return list_price(model, "--large-price IN,OUT")


def list_price(model: str, how: str) -> ListPrice:
    """The list price of a model string; `how` says what to give where there is none.

    Raises:
        ConfigurationError: there is none.
    """
    from cascade.ledger import ListPrice, find_pricing  # noqa: PLC0415 - heavy, keeps --help fast

    provider = provider_of(model)
    found = find_pricing(provider, model.partition(":")[2], local=provider in LOCAL)
    if isinstance(found, ListPrice):
        return found
    raise ConfigurationError(f"there is no list price of {model}: give {how}.")


def provider_of(model: str) -> str:
    """The provider of a model string.

    Raises:
        ConfigurationError: it is no model string.
    """
    provider, colon, name = model.partition(":")
    if not (provider and colon and name):
        raise ConfigurationError(f"{model!r} is no model string: write openai:gpt-5.1.")
    return provider


def tokens_price(option: str, text: str) -> Price:
    """The price in `IN,OUT`, dollars per 1M tokens.

    Raises:
        ConfigurationError: it is not of that form.
    """
    from cascade.ledger import Price  # noqa: PLC0415 - heavy, keeps --help fast

    try:
        price_in, price_out = (Decimal(part) for part in text.split(","))
    except (ValueError, InvalidOperation):
        raise ConfigurationError(
            f"{option} {text!r}: write two prices with a comma, dollars per 1M input and output "
            f"tokens: {option} 1.25,10."
        ) from None
    return Price(input=price_in, output=price_out)

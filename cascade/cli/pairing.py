"""A small and a large model, and when the large one is asked, as commands name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli.completing import models
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade

Small = Annotated[
    str, typer.Option(envvar="CASCADE_SMALL", help="The model that drafts.", autocompletion=models)
]
Large = Annotated[
    str | None,
    typer.Option(
        envvar="CASCADE_LARGE", help="The model for what is doubtful.", autocompletion=models
    ),
]
Threshold = Annotated[
    float | None, typer.Option(help="Accept drafts at this confidence and above.")
]
PriceOfError = Annotated[float | None, typer.Option(help="Dollars that a wrong answer costs you.")]

NO_LARGE = (
    "there is no large model: name it with --large, or once for all with "
    "`export CASCADE_LARGE=openai:gpt-5.1`; without one, --large ollama:qwen2.5:7b asks a local "
    "one. `cascade doctor` shows what is within reach."
)


def pair(
    small: str,
    large: str | None,
    *,
    threshold: float | None,
    price_of_error: float | None,
    max_tokens: int | None,
    prices: Path | None = None,
    **options: Any,
) -> Cascade:
    """The cascade of two models.

    Args:
        small: the model that drafts.
        large: the model for what is doubtful.
        threshold: accept drafts at this confidence and above.
        price_of_error: dollars that a wrong answer costs.
        max_tokens: limit of either's answers.
        prices: a file of prices.
        options: of `Cascade`.

    Raises:
        ConfigurationError: there is no large model, or two rules for when it is asked.
    """
    from cascade import Cascade, ThresholdPolicy, Tier  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.ledger import load_prices  # noqa: PLC0415

    if large is None:
        raise ConfigurationError(NO_LARGE)
    if threshold is not None and price_of_error is not None:
        raise ConfigurationError(
            "--threshold and --price-of-error were both given: each of them decides alone. "
            "Give one."
        )
    table = None if prices is None else load_prices(prices)
    return Cascade(
        Tier(small, max_tokens=max_tokens, price=table),
        Tier(large, max_tokens=max_tokens, price=table),
        price_of_error=price_of_error,
        policy=None if threshold is None else ThresholdPolicy(threshold),
        **options,
    )

"""Prices of many models from a file."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path

from cascade.errors import ConfigurationError
from cascade.ledger.prices import OwnMachine, Price


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices of many models from a TOML file.

        ["openai:gpt-5.1"]               # the parameters of Price
        input = "1.10"
        output = "8.80"

        ["ollama:qwen2.5:3b"]            # or those of Price.local
        hardware_per_hour = "0.40"
        utilisation = "0.25"

    Raises:
        ConfigurationError: the file cannot be read, or names what has no price here; the message
            names file and model.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"prices in {path} cannot be read: {error}. Write TOML."
        ) from error
    if not found:
        raise ConfigurationError(f'{path} holds no prices: give ["provider:model"] and its price.')
    return {model: _of_table(path, model, entry) for model, entry in found.items()}


def _of_table(path: Path, model: str, entry: object) -> Price:
    if not isinstance(entry, dict) or not entry:
        raise ConfigurationError(
            f"{path}, {model!r}: {entry!r} is no price: give input and output."
        )
    try:
        if not entry.keys() <= OwnMachine.model_fields.keys():
            return Price(**{**entry, "source": path.name})
        return Price.local(**entry).model_copy(update={"source": path.name})
    except (ConfigurationError, TypeError) as error:  # a name that is none is a TypeError
        raise ConfigurationError(
            f"{path}, {model!r}: {str(error).rstrip('.')}. A table has the parameters of Price or "
            "of Price.local."
        ) from error

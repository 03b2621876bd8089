"""A file of prices for many models at once, which override list prices.

    ["openai:gpt-5.1"]                 # one price
    input = "1.10"
    output = "8.80"

    [["openai:gpt-5.6-sol"]]           # or several, each from a day on
    from = 2026-01-01
    input = 5
    output = 30

    ["ollama:qwen2.5:3b"]              # or a machine of your own, as in Price.local
    hardware_per_hour = "0.40"
    utilisation = "0.25"

JSON of the same shape does as well.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from inspect import signature
from pathlib import Path

from cascade.errors import ConfigurationError
from cascade.ledger.prices.dated import DatedPrice
from cascade.ledger.prices.own import Price

Prices = Mapping[str, Price | DatedPrice]
"""Model string (`provider:name`) → its price: what `Tier(price=…)` takes for many models."""

_PER_TOKEN = frozenset(signature(Price.__init__).parameters) - {"self", "source"}
_MACHINE = frozenset(signature(Price.local).parameters)


def load_prices(path: str | Path) -> dict[str, Price | DatedPrice]:
    """The prices in a TOML file, or a JSON file (`.json`).

    Raises:
        ConfigurationError: the file cannot be read, or a price in it makes no sense; the message
            names the model.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = json.loads(text, parse_float=Decimal)
        else:
            found = tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(f"prices in {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(
            f"prices in {path} cannot be read: {error}. Write TOML, or JSON into a file that ends "
            "in .json."
        ) from error
    if not isinstance(found, dict) or not found:
        raise ConfigurationError(f'{path} holds no prices: give ["provider:model"] and its price.')
    return {model: _model(path, model, entry) for model, entry in found.items()}


def _model(path: Path, model: str, entry: object) -> Price | DatedPrice:
    where = f"{path}, {model!r}"
    try:
        if isinstance(entry, list):
            return DatedPrice(dict(_dated(where, path.name, item) for item in entry))
        return _price(where, path.name, entry)
    except ConfigurationError as error:
        if str(error).startswith(where):
            raise
        raise ConfigurationError(f"{where}: {error}") from error


def _dated(where: str, source: str, entry: object) -> tuple[str, Price]:
    if not isinstance(entry, dict) or "from" not in entry:
        raise ConfigurationError(
            f"{where}: each of several prices says from which day it is valid: from = 2026-07-01."
        )
    rest = {name: value for name, value in entry.items() if name != "from"}
    return str(entry["from"]), _price(where, source, rest)


def _price(where: str, source: str, entry: object) -> Price:
    if not isinstance(entry, dict) or not entry:
        raise ConfigurationError(f"{where}: {entry!r} is no price: give input and output.")
    machine = {name: value for name, value in entry.items() if name in _MACHINE}
    others = {name: value for name, value in entry.items() if name not in _MACHINE}
    unknown = sorted(others.keys() - _PER_TOKEN)
    if unknown:
        raise ConfigurationError(
            f"{where}: {unknown[0]!r} is nothing that has a price here. There are "
            f"{', '.join(sorted(_PER_TOKEN | _MACHINE))}, and from."
        )
    if machine:
        hour = Price.local(**machine)
        if others.keys() & {"per_hour", "power_per_hour"}:
            raise ConfigurationError(
                f"{where}: per_hour and {sorted(machine)[0]} say the same twice: give one of them."
            )
        others |= {"per_hour": hour.per_hour, "power_per_hour": hour.power_per_hour}
    return Price(**others, source=source)

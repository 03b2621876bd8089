"""How a cascade was made, as plain JSON, so that a chat model can be written down and read again.

Keys never go in: a tier reads its key from the environment when it is made again. What cannot be
written (a model object, a store, a function) makes the whole cascade one that cannot.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from cascade.api import Cascade
from cascade.errors import ConfigurationError
from cascade.ledger import Price
from cascade.models.address import without_secrets
from cascade.tiers import Tier

_SECRET = re.compile(r"key|token$|secret|passw|auth|header|credential", re.IGNORECASE)


class _NotPlainError(Exception):
    """A value has no place in JSON, or may hold a secret."""


def recipe_of(cascade: Cascade, *, leave_out: Collection[str] = ()) -> dict[str, Any] | None:
    """The options that a cascade was made with, those that are not defaults; None when one of
    them cannot be written down.

    Args:
        cascade: it remembers its options.
        leave_out: options that are written elsewhere.
    """
    defaults = {name: parameter.default for name, parameter in _options().items()}
    try:
        return {
            name: _plain(value)
            for name, value in cascade.options.items()
            if name not in leave_out and value not in (None, (), []) and value != defaults[name]
        }
    except _NotPlainError:
        return None


def check_options(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same options, of which a cascade knows every one.

    Raises:
        ConfigurationError: it has no such option, or it has a field of its own.
    """
    known = sorted(_options().keys() - {"self", "small", "large", "tiers"})
    if unknown := sorted(given.keys() - set(known)):
        raise ConfigurationError(
            f"options: Cascade has no {', '.join(unknown)}; there are {', '.join(known)}."
        )
    return given


def _options() -> Mapping[str, inspect.Parameter]:
    return inspect.signature(Cascade.__init__).parameters


def read_tier(given: Any, openai_key: str | None = None) -> Any:
    """A tier as `recipe_of` writes it, or anything else as it is.

    Args:
        given: a tier, its description, or a model.
        openai_key: for a tier of `openai:` that brings none.

    Raises:
        ConfigurationError: the description names something that a tier has not.
    """
    tier = _tier(given) if isinstance(given, Mapping) else given
    if isinstance(tier, str):
        tier = Tier(tier)
    if not isinstance(tier, Tier) or not str(tier.model).startswith("openai:"):
        return tier
    return replace(tier, api_key=tier.api_key or openai_key)


def _tier(given: Mapping[str, Any]) -> Tier:
    known = {field.name for field in fields(Tier)}
    if unknown := sorted(set(given) - known):
        raise ConfigurationError(f"a tier has no {', '.join(map(str, unknown))}: {sorted(known)}.")
    settings = dict(given)
    if isinstance(settings.get("price"), Mapping):
        settings["price"] = Price(**settings["price"])
    return Tier(**settings)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tier):
        return _plain_tier(value)
    if isinstance(value, Mapping):
        if any(_SECRET.search(str(name)) for name in value):
            raise _NotPlainError
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    raise _NotPlainError


def _plain_tier(tier: Tier) -> Any:
    if tier.base_url is not None and without_secrets(tier.base_url) != tier.base_url.rstrip("/"):
        raise _NotPlainError
    written: dict[str, Any] = {}
    for field in fields(Tier):
        value = getattr(tier, field.name)
        if field.name == "api_key" or value is None or value in (field.default, {}):
            continue
        if field.name == "price":
            prices = value.model_dump(exclude_none=True)
            written["price"] = {name: str(amount) for name, amount in prices.items()}
        else:
            written[field.name] = _plain(value)
    return written["model"] if written.keys() == {"model"} else written

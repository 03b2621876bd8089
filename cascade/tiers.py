"""Tier: one model with its price and the parameters of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

from cascade._numbers import to_count, to_number
from cascade.errors import ConfigurationError
from cascade.ledger.outlook import PricedTier
from cascade.ledger.prices import Price, Pricing, find_pricing
from cascade.models import Model, open_model
from cascade.models.base import WithheldModel

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

ModelLike: TypeAlias = "str | BaseChatModel | Model | Tier"
"""Forms in which a tier may be given."""

_WANTED: tuple[tuple[str, Any, str], ...] = (
    ("name", str | None, "a text"),
    ("price", Price | Mapping | None, "Price(input=…, output=…) or the table of load_prices(file)"),
    # An empty address would mean the provider's own server, elsewhere.
    ("base_url", str | None, "an address, such as 'http://127.0.0.1:8000/v1', or leave it out"),
    ("options", Mapping, "names and values: {'n_ctx': 4096}"),
    ("local", bool | None, "True, False or None"),
)
"""Options of a tier, their types, and what to give."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One model of a cascade.

    Args:
        model: `provider:name`, a LangChain chat model, or a `cascade.models.Model`.
        name: in results and the ledger; `small` and `large` by default, the model string in
            cascades of more tiers.
        price: overrides the list price; local models have none until it is set. A table of
            `load_prices` is looked up by the model string.
        base_url: address of an OpenAI-compatible or Ollama server.
        api_key: overrides the provider's environment variable. Never shown.
        max_tokens: limit of output tokens per answer.
        temperature: None leaves it to the provider.
        timeout_s: seconds after which a call has failed.
        options: for the adapter of a model string: how to load the model (`n_ctx`), or what to
            send to the provider with every request (`think`, `keep_alive`, …).
        local: whether questions that have to stay on this machine may go to it; None: by its
            address. LangChain chat models do not tell theirs; a proxy here passes requests on.

    Raises:
        ConfigurationError: a value has the wrong type, a limit is not positive, or the temperature
            is negative.
    """

    model: str | BaseChatModel | Model
    name: str | None = None
    price: Price | Mapping[str, Price] | None = None
    base_url: str | None = field(default=None, repr=False)  # may hold a name and a password
    api_key: str | None = field(default=None, repr=False)
    max_tokens: int | None = None
    temperature: float | None = None
    timeout_s: float = 120.0  # a local model may load for a minute before its first token
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    local: bool | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            to_count("Tier.max_tokens", self.max_tokens)
        to_number("Tier.timeout_s", self.timeout_s, above=0)
        if self.temperature is not None:
            # 0 and 0.0 are one temperature; as JSON, in keys and hashes, they would be two.
            temperature = to_number("Tier.temperature", self.temperature, least=0)
            object.__setattr__(self, "temperature", temperature)
        for option, kind, wanted in _WANTED:
            given = getattr(self, option)
            if not isinstance(given, kind) or (isinstance(given, str) and not given.strip()):
                raise ConfigurationError(f"Tier({option}={given!r}): give {wanted}.")
        if not isinstance(self.api_key, str | None):
            raise ConfigurationError(
                f"Tier(api_key=…) is of type {type(self.api_key).__name__}: give a text."
            )


@dataclass(frozen=True, slots=True)
class OpenTier(PricedTier):
    """A tier that is ready to be asked; `local` says whether questions that have to stay on this
    machine may go to it."""

    model: Model
    settings: Tier
    local: bool


def open_tier(given: ModelLike, default_name: str | None = None) -> OpenTier:
    """The tier that a user gave, with its adapter and its price; nothing is sent yet."""
    tier = given if isinstance(given, Tier) else Tier(given)
    model = open_model(
        tier.model, base_url=tier.base_url, api_key=tier.api_key, options=tier.options or None
    )
    own = tier.price.get(model.name) if isinstance(tier.price, Mapping) else tier.price
    pricing: Pricing = own or find_pricing(
        model.provider, model.model, local=model.local, base_url=tier.base_url or model.server
    )
    local = model.local if tier.local is None else tier.local
    name = tier.name or default_name or model.name
    return OpenTier(name, model, pricing, tier.max_tokens, tier, local)


def open_tiers(
    small: ModelLike | None,
    large: ModelLike | None,
    tiers: Sequence[ModelLike] = (),
    *,
    local_only: bool = False,
) -> tuple[OpenTier, ...]:
    """The tiers of a cascade, given as a pair or as a list, smallest first; while `local_only`,
    with nothing but names and prices of those that are not on this machine."""
    if not isinstance(tiers, Sequence) or isinstance(tiers, str | bytes):
        raise ConfigurationError(f"tiers={tiers!r}: give a list of models.")
    missing = [name for name, model in (("small", small), ("large", large)) if model is None]
    if tiers and len(missing) < 2:
        raise ConfigurationError("give either small and large, or tiers, not both.")
    if not tiers and missing:
        raise ConfigurationError(
            f"{missing[0]} is missing: Cascade(small='ollama:qwen2.5:3b', large='openai:gpt-5.1')."
        )
    pair: list[tuple[Any, str | None]] = [(small, "small"), (large, "large")]
    opened = [open_tier(*named) for named in ([(tier, None) for tier in tiers] or pair)]
    for one, other in combinations(opened, 2):
        if one.name == other.name:
            raise ConfigurationError(
                f"two tiers are called {one.name!r} ({one.model.name} and {other.model.name}): "
                "give one of them another name, Tier(…, name='medium')."
            )
    if local_only and not any(tier.local for tier in opened):
        there = ", ".join(f"{tier.name} ({tier.model.name})" for tier in opened)
        raise ConfigurationError(
            f"local_only, but no tier is on this machine: {there}. Give a small model that is, "
            "such as 'ollama:qwen2.5:3b', or say Tier(…, local=True) of a server that questions "
            "may go to."
        )
    for n, tier in enumerate(opened):
        if local_only and not tier.local:
            model = WithheldModel(tier.model)
            settings = replace(tier.settings, model=model, base_url=None, api_key=None, options={})
            opened[n] = replace(tier, model=model, settings=settings)
    return tuple(opened)

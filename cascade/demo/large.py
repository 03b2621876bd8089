"""Which model stands in for the large one, whether it runs live, and what it is priced at."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Literal

from cascade.demo.prompts import MAX_TOKENS
from cascade.errors import ConfigurationError
from cascade.ledger import NoPrice, Price, find_pricing
from cascade.models import Model, ReplayModel
from cascade.state import Usage
from cascade.tiers import Tier

PRICED_AS = ("together", "Qwen/Qwen1.5-0.5B")
"""The hosted model at whose list price recorded answers are counted: same family, same size.
The recorded model itself is hosted by nobody."""

HOSTED = "openai:gpt-4.1-mini"
"""Whom `--live` asks when there is a key of OpenAI's: cheap, and it answers without thinking."""

LIVE_MAX_TOKENS = 1024
LIST_TIMEOUT_S = 3.0

Source = Literal["live", "recorded"]


@dataclass(frozen=True, slots=True)
class Large:
    """The large tier of the demo.

    Attributes:
        tier: ready to be given to `Cascade`.
        name: for people.
        source: whether its answers are made now or were made before.
        remarks: how it came to be this one.
        price_note: its price and where that comes from.
    """

    tier: Tier
    name: str
    source: Source
    remarks: tuple[str, ...]
    price_note: str


def recorded_path() -> Path:
    """The shipped answers of the large model."""
    return Path(str(files("cascade.demo").joinpath("recorded.jsonl")))


async def choose_large(
    named: str | Model | None = None, *, live: bool = False, price: Price | None = None
) -> Large:
    """The large tier: the one that is named; with `live` one that is found; else the recording.

    Args:
        named: a model or its string.
        live: look for a local Ollama model, then for a key of OpenAI's.
        price: instead of the list price.

    Raises:
        ConfigurationError: the named model is a recording that cannot be read.
    """
    if isinstance(named, str) and named.startswith("replay:"):
        return _recorded(Path(named.removeprefix("replay:")), price)
    if named is not None:
        return _live(named, "named by you", price)
    if not live:
        return _recorded(recorded_path(), price)
    found = await _largest_ollama_model()
    if found is not None:
        return _live(f"ollama:{found}", "the largest model of your Ollama server", price)
    if os.environ.get("OPENAI_API_KEY"):
        return _live(HOSTED, "OPENAI_API_KEY is set", price)
    fallback = _recorded(recorded_path(), price)
    missing = "no Ollama model and no OPENAI_API_KEY were found, so its answers are recorded ones"
    return replace(fallback, remarks=(missing, *fallback.remarks))


def parse_price(text: str) -> Price:
    """`IN,OUT` in dollars per 1M tokens, as in `0.10,0.40`.

    Raises:
        ConfigurationError: it is something else.
    """
    parts = text.split(",")
    if len(parts) != 2:
        raise ConfigurationError(
            f"the price {text!r} is not IN,OUT: two amounts in dollars per 1M tokens, as 0.10,0.40."
        )
    return Price(input=parts[0].strip(), output=parts[1].strip())


def _live(model: str | Model, why: str, price: Price | None) -> Large:
    tier = Tier(model, name="large", price=price, max_tokens=LIVE_MAX_TOKENS)
    opened = tier.open()
    if opened.model.local or model == HOSTED:
        # Like the recording; a named hosted model may refuse any temperature but its own.
        tier = replace(tier, temperature=0.0)
    note = _worded(price, "set by you") or opened.pricing.source
    return Large(tier, opened.model.name, "live", (why,), note)


def _recorded(path: Path, price: Price | None) -> Large:
    model = ReplayModel(path)
    header = model.header
    name = Path(header.model.partition(":")[2]).name.removesuffix(".gguf")
    settings = header.settings
    made = [f"recorded on {header.recorded_at:%Y-%m-%d}"]
    made += [f"with {settings['library']}"] if "library" in settings else []
    made += [f"on {settings['machine']}"] if "machine" in settings else []
    made += [f"SHA-256 of the weights {header.weights_sha256}"] if header.weights_sha256 else []
    listed, source = (price, "set by you") if price is not None else _assumed_price(path)
    tier = Tier(model, name="large", price=listed, max_tokens=MAX_TOKENS, temperature=0.0)
    return Large(tier, name, "recorded", (", ".join(made),), _worded(listed, source) or source)


def _assumed_price(path: Path) -> tuple[Price | None, str]:
    """A list price for the shipped recording; what another one costs nobody knows."""
    if path != recorded_path():
        return None, "price not set"
    provider, model = PRICED_AS
    pricing = find_pricing(provider, model, local=False)
    per_token = Usage(input_tokens=1_000_000, output_tokens=0)
    per_output = Usage(input_tokens=0, output_tokens=1_000_000)
    asked, written = pricing.cost(per_token), pricing.cost(per_output)
    if isinstance(pricing, NoPrice) or asked is None or written is None:
        return None, "price not set: no list price is known"
    source = f"an assumption: what {provider} lists for {model} ({pricing.source})"
    return Price(input=asked, output=written), source


def _worded(price: Price | None, source: str) -> str:
    if price is None or price.input is None or price.output is None:
        return ""
    asked, written = (f"${_short(amount)}" for amount in (price.input, price.output))
    return f"{asked} per 1M input tokens and {written} per 1M output tokens ({source})"


def _short(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


async def _largest_ollama_model() -> str | None:
    import ollama  # noqa: PLC0415 - heavy, and only with --live

    client = ollama.AsyncClient(timeout=LIST_TIMEOUT_S)
    try:
        listing = await client.list()
    except (ConnectionError, OSError, TimeoutError, ollama.ResponseError):
        return None
    finally:
        await client.close()  # type: ignore[no-untyped-call]
    models = sorted(listing.models, key=lambda model: model.size or 0)
    return models[-1].model if models else None

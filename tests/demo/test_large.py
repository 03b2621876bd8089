"""Which model stands in for the large one."""

from __future__ import annotations

from decimal import Decimal
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import ollama
import pytest

from cascade.demo import large as chooser
from cascade.demo.large import choose_large, parse_price, recorded_path
from cascade.errors import ConfigurationError
from cascade.ledger import NoPrice, Price
from cascade.testing import ScriptedModel


class FakeOllama:
    """An Ollama client that lists these models, or cannot reach its server."""

    models: list[SimpleNamespace] | None = None

    def __init__(self, **_: object) -> None:
        pass

    async def list(self) -> SimpleNamespace:
        if self.models is None:
            raise ConnectionError("nobody listens")
        return SimpleNamespace(models=self.models)

    async def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[FakeOllama]:
    import_module("cascade.models.ollama")  # it keeps the client that it finds when it is loaded
    monkeypatch.setattr(ollama, "AsyncClient", FakeOllama)
    monkeypatch.setattr(FakeOllama, "models", None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return FakeOllama


async def test_by_default_the_answers_are_recorded_ones_and_their_price_an_assumption() -> None:
    large = await choose_large()
    assert large.source == "recorded"
    assert large.name.startswith("qwen2.5-coder-0.5b")
    assert "SHA-256" in large.remarks[0]
    assert "an assumption" in large.price_note
    assert large.tier.price is not None


async def test_a_named_model_is_live() -> None:
    large = await choose_large(ScriptedModel("x", name="big"))
    assert (large.name, large.source) == ("scripted:big", "live")
    assert large.tier.temperature == 0.0
    assert "price not set" in large.price_note


async def test_a_named_hosted_model_keeps_its_own_temperature() -> None:
    large = await choose_large(ScriptedModel("x", local=False))
    assert large.tier.temperature is None


async def test_a_named_recording_is_recorded_and_has_no_assumed_price(tmp_path: Path) -> None:
    copy = tmp_path / "mine.jsonl"
    copy.write_bytes(recorded_path().read_bytes())
    large = await choose_large(f"replay:{copy}")
    assert large.source == "recorded"
    assert large.tier.price is None
    assert large.price_note == "price not set"


async def test_a_given_price_replaces_the_assumed_one() -> None:
    large = await choose_large(price=Price(input="0.5", output=2))
    assert large.tier.price == Price(input="0.5", output=2)
    assert large.price_note == "$0.5 per 1M input tokens and $2 per 1M output tokens (set by you)"


async def test_live_takes_the_largest_model_of_the_ollama_server(
    server: type[FakeOllama], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [SimpleNamespace(model="a:1b", size=1), SimpleNamespace(model="b:7b", size=7)]
    monkeypatch.setattr(server, "models", models)
    large = await choose_large(live=True)
    assert (large.name, large.source) == ("ollama:b:7b", "live")


async def test_live_takes_openai_where_only_a_key_is_found(
    server: type[FakeOllama], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "models", [])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-key")
    large = await choose_large(live=True)
    assert (large.name, large.source) == (chooser.HOSTED, "live")
    assert "list price" in large.price_note


@pytest.mark.usefixtures("server")
async def test_live_says_that_it_found_nothing_live() -> None:
    large = await choose_large(live=True)
    assert large.source == "recorded"
    assert "were found" in large.remarks[0]


async def test_an_unknown_list_price_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chooser, "find_pricing", lambda *_, **__: NoPrice(reason="unknown"))
    large = await choose_large()
    assert large.tier.price is None
    assert large.price_note == "price not set: no list price is known"


def test_a_price_is_two_amounts() -> None:
    price = parse_price("0.10, 0.40")
    assert (price.input, price.output) == (Decimal("0.10"), Decimal("0.40"))


@pytest.mark.parametrize("text", ["0.1", "1,2,3", "a,b", "-1,2", ""])
def test_an_impossible_price_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_price(text)

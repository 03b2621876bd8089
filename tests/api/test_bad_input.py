"""What people get wrong, each with an error that says what and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, Price, Tier
from cascade.errors import (
    CascadeError,
    ConfigurationError,
    InputError,
    MissingKeyError,
    ModelNotFoundError,
    ModelUnavailableError,
    UnknownProviderError,
    UnsupportedContentError,
)
from cascade.graph import DEFAULT_RETRY
from cascade.models.base import guard
from cascade.questions import Question
from cascade.testing import ScriptedModel
from tests.servers import replies
from tests.servers.fake import FakeServer

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
LATIN = "café".encode("latin-1")
NOBODY = "http://127.0.0.1:9"
Fails = Callable[[FakeServer], object]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(guard, "forbidden", False)
    with FakeServer() as running:
        yield running


def small() -> ScriptedModel:
    return ScriptedModel("draft", logprobs=0.1)


def ask(large: object, question: Question = "Hello?") -> object:
    """A doubtful draft that is empty, so that nothing stands in for the large model."""
    cascade = Cascade(
        ScriptedModel("", logprobs=0.1),
        large,  # type: ignore[arg-type]
        retry_policy=DEFAULT_RETRY._replace(max_attempts=1),
    )
    return cascade.invoke(question)


def ollama(url: str) -> Tier:
    return Tier("ollama:qwen2.5:3b", base_url=url)


def not_pulled(server: FakeServer) -> object:
    server.will(replies.ollama_error(404, "model 'qwen2.5:3b' not found"))
    return ask(ollama(server.url))


BAD: dict[str, tuple[Fails, type[CascadeError], str]] = {
    "empty prompt": (lambda _: ask(small(), ""), InputError, "the question is empty"),
    "blank prompt": (lambda _: ask(small(), " \n"), InputError, "the question is empty"),
    "no messages": (lambda _: ask(small(), []), InputError, "empty"),
    "unknown provider": (
        lambda _: Cascade(small(), "opneai:gpt-5.1"),
        UnknownProviderError,
        "unknown provider 'opneai'.*Did you mean 'openai:gpt-5.1'",
    ),
    "no provider": (lambda _: Cascade(small(), "gpt-5.1"), ConfigurationError, "'gpt-5.1'"),
    "missing key": (
        lambda _: Cascade(small(), "openai:gpt-5.1"),
        MissingKeyError,
        "set OPENAI_API_KEY or give api_key",
    ),
    "ollama not there": (
        lambda _: ask(ollama(NOBODY)),
        ModelUnavailableError,
        "nobody answers at http://127.0.0.1:9.*ollama serve",
    ),
    "server not there": (
        lambda _: ask(Tier("openai:m", base_url=f"{NOBODY}/v1")),
        ModelUnavailableError,
        "127.0.0.1:9",
    ),
    "model not pulled": (not_pulled, ModelNotFoundError, "ollama pull qwen2.5:3b"),
    "image for a text model": (
        lambda server: ask(ollama(server.url), [HumanMessage(["What is it?", IMAGE])]),
        UnsupportedContentError,
        "image",
    ),
    "bytes of a file": (
        lambda _: ask(small(), LATIN),  # type: ignore[arg-type]
        InputError,
        "decode it to text first",
    ),
    "text of a file that is not UTF-8": (
        lambda _: ask(small(), LATIN.decode("utf-8", "surrogateescape")),
        InputError,
        "not UTF-8",
    ),
    "negative price": (
        lambda _: Tier(small(), price=Price(input=-1, output=1)),
        ConfigurationError,
        r"input=.*-1.*",
    ),
    "two tiers of one name": (
        lambda _: Cascade(Tier(small(), name="x"), Tier(small(), name="x")),
        ConfigurationError,
        "two tiers are called 'x'.*another name",
    ),
    "a calibration that is not there": (
        lambda _: Cascade(small(), small(), calibrator="/no/such.json"),
        ConfigurationError,
        "/no/such.json cannot be read",
    ),
    "a calibration that is none": (
        lambda _: Cascade(small(), small(), calibrator=Path(__file__)),
        ConfigurationError,
        "is no calibration",
    ),
}


@pytest.mark.parametrize(("fails", "kind", "says"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said(
    server: FakeServer, fails: Fails, kind: type[CascadeError], says: str
) -> None:
    with pytest.raises(kind, match=f"(?s){says}"):
        fails(server)


def test_a_question_that_nobody_may_answer_costs_nothing(server: FakeServer) -> None:
    with pytest.raises(InputError):
        Cascade(small(), ollama(server.url)).invoke("")
    assert server.received == []


def test_an_image_for_a_small_text_model_is_answered_by_the_large_one(server: FakeServer) -> None:
    cascade = Cascade(ollama(server.url), ScriptedModel("a cat"))
    result = cascade.invoke([HumanMessage(["What is it?", IMAGE])])
    assert (result.answer, result.escalated) == ("a cat", True)
    assert "image" in result.decision.reason


@pytest.mark.live
def test_a_prompt_that_is_too_long_for_the_embedded_model_is_escalated() -> None:
    pytest.importorskip("xllamacpp")
    large = ScriptedModel("a summary")
    result = Cascade("llamacpp:smollm2-135m", large).invoke("word " * 9000)
    assert (result.answer, result.tier) == ("a summary", "large")
    assert "small failed" in result.decision.reason
    assert "n_ctx" in result.decision.reason
    draft = result.ledger.entries[0]
    assert (draft.outcome, draft.cost_usd) == ("failed", 0)


@pytest.mark.live
def test_a_prompt_that_is_too_long_for_both_says_so_once() -> None:
    pytest.importorskip("xllamacpp")
    model = "llamacpp:smollm2-135m"
    with pytest.raises(CascadeError, match="n_ctx") as caught:
        Cascade(model, model).invoke("word " * 9000)
    assert caught.value.ledger is not None
    assert [entry.node for entry in caught.value.ledger] == ["draft", "expert"]

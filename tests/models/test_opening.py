"""Model strings and objects, and what is said when they name no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from cascade.errors import (
    ConfigurationError,
    MissingDependencyError,
)
from cascade.models import Recorder, open_model
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.models.test_recording import Scripted


def test_a_string_with_its_address_key_and_options() -> None:
    ollama = open_model("ollama:qwen2.5:3b", base_url="box:1", options={"num_ctx": 64})
    assert isinstance(ollama, OllamaModel)
    assert (ollama.model, ollama.name) == ("qwen2.5:3b", "ollama:qwen2.5:3b")
    assert ollama.server == "http://box:1"
    hosted = open_model("openai:org/m", base_url="http://example.com/v1", api_key="k")
    assert isinstance(hosted, OpenAIModel)
    assert (hosted.model, hosted.local, hosted.secrets) == ("org/m", False, ("k",))


def test_a_langchain_provider_sends_each_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    class Chat(FakeListChatModel):
        max_retries: int = 2

    def init(name: str, **settings: object) -> FakeListChatModel:
        given.append({"name": name, **settings})
        retries = {k: v for k, v in settings.items() if k == "max_retries"}
        return Chat(responses=["x"], **retries)  # type: ignore[arg-type]

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    model = open_model("anthropic:claude", api_key="k", base_url="http://box", options={"top_k": 1})
    assert model.name == "anthropic:claude"
    settings = {"model_provider": "anthropic", "api_key": "k", "base_url": "http://box", "top_k": 1}
    first = {"name": "claude", **settings}
    assert given == [first, {**first, "max_retries": 0}]


@pytest.mark.parametrize("spec", ["gpt-4o", "", ":x", "openai:", "replay: ", "qwen2.5:3b"])
def test_a_string_that_names_no_model_gets_examples(spec: str) -> None:
    with pytest.raises(ConfigurationError, match=r"openai:gpt-5\.1") as caught:
        open_model(spec)
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "settings", "error", "says"),
    [
        (7, {}, ConfigurationError, "int"),
        (Scripted(), {"base_url": "http://x"}, ConfigurationError, "base_url"),
        ("replay:{}", {"api_key": "k"}, ConfigurationError, "api_key"),
        ("replay:{}", {"options": {"spice": 1}}, ConfigurationError, "options"),
        ("llamacpp:smollm2-135m", {"base_url": "http://x"}, ConfigurationError, "base_url"),
        ("anthropic:claude", {"base_url": "box"}, ConfigurationError, "Write .http://"),
        ("anthropic:claude", {}, ConfigurationError, "temperature too high"),
        ("cohere:command", {}, MissingDependencyError, "langchain-cohere"),
    ],
)
def test_settings_that_do_not_fit_are_not_ignored(
    spec: Any,
    settings: Any,
    error: type[Exception],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(name: str, **_: object) -> None:
        raise ValueError("temperature too high")

    if "anthropic:" in str(spec):
        monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    recording = tmp_path / "r.jsonl"
    Recorder(Scripted(), recording)
    with pytest.raises(error, match=says):
        open_model(spec.format(recording) if isinstance(spec, str) else spec, **settings)


def test_other_providers_need_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"\.\[langchain\]"):
        open_model("anthropic:claude")

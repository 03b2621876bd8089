"""Model strings and objects, and what is said when they name no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.models import Recorder, open_model
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from cascade.testing import ScriptedModel


def test_a_string_with_its_address_key_and_options() -> None:
    ollama = open_model("ollama:qwen2.5:3b", base_url="box:1", options={"num_ctx": 64})
    assert isinstance(ollama, OllamaModel)
    assert (ollama.model, ollama.name) == ("qwen2.5:3b", "ollama:qwen2.5:3b")
    assert ollama.server == "http://box:1"
    hosted = open_model("openai:org/m", base_url="http://example.com/v1", api_key="k")
    assert isinstance(hosted, OpenAIModel)
    assert (hosted.model, hosted.local, hosted.secrets) == ("org/m", False, ("k",))


@pytest.mark.parametrize("spec", ["gpt-4o", "", ":x", "openai:", "replay: ", "qwen2.5:3b"])
def test_a_string_that_names_no_model_gets_examples(spec: str) -> None:
    with pytest.raises(ConfigurationError, match=r"openai:gpt-5\.1") as caught:
        open_model(spec)
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "settings", "error", "says"),
    [
        (7, {}, ConfigurationError, "int"),
        (ScriptedModel("x"), {"base_url": "http://x"}, ConfigurationError, "base_url"),
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
    Recorder(ScriptedModel("x"), recording)
    with pytest.raises(error, match=says):
        open_model(spec.format(recording) if isinstance(spec, str) else spec, **settings)


def test_other_providers_need_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"\.\[langchain\]"):
        open_model("anthropic:claude")

"""Model strings and objects, and what is said when they name no model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel

import cascade.models
from cascade.errors import (
    ConfigurationError,
    MissingDependencyError,
    MissingKeyError,
    UnknownProviderError,
)
from cascade.models import Recorder, open_model
from cascade.models.langchain import LangChainModel
from cascade.models.llamacpp import LlamaCppModel
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.models.test_recording import Scripted


def test_a_tag_after_the_second_colon_belongs_to_the_name() -> None:
    model = open_model("ollama:qwen2.5:3b", base_url="box:1", options={"num_ctx": 64})
    assert isinstance(model, OllamaModel)
    assert (model.model, model.name) == ("qwen2.5:3b", "ollama:qwen2.5:3b")
    assert model.server == "http://box:1"


def test_openai_with_an_address_and_a_key() -> None:
    model = open_model("openai:org/m", base_url="http://example.com/v1", api_key="k")
    assert isinstance(model, OpenAIModel)
    assert (model.model, model.local, model.secrets) == ("org/m", False, ("k",))


def test_a_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    model = open_model(f"llamacpp:{path}", options={"n_ctx": 64})
    assert isinstance(model, LlamaCppModel)
    assert (model.weights_path, model.local) == (path, True)


def test_a_model_comes_back_as_it_is() -> None:
    model = Scripted()
    assert open_model(model) is model


def test_a_langchain_model_is_wrapped() -> None:
    assert isinstance(open_model(FakeListChatModel(responses=["x"])), LangChainModel)


@pytest.mark.parametrize("spec", ["gpt-4o", "", ":x", "openai:", "replay: ", "qwen2.5:3b"])
def test_a_string_that_names_no_model_gets_examples(spec: str) -> None:
    with pytest.raises(UnknownProviderError, match=r"openai:gpt-5\.1") as caught:
        open_model(spec)
    assert repr(spec) in str(caught.value)


def test_a_name_with_a_tag_is_taken_for_one_of_ollamas() -> None:
    with pytest.raises(UnknownProviderError, match=r"'ollama:qwen2\.5:3b'"):
        open_model("qwen2.5:3b")


def test_without_langchain_it_is_said_how_to_get_other_providers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnknownProviderError, match=r"agent-cascade\[langchain\]"):
        open_model("anthropic:claude")


def test_a_langchain_provider_whose_package_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match="langchain-cohere"):
        open_model("cohere:command")


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
    assert given == [
        {"name": "claude", **settings},
        {"name": "claude", **settings, "max_retries": 0},
    ]


@pytest.mark.parametrize("base_url", ["localhost:8000", "box"])
def test_an_address_that_is_none_is_refused_for_langchain_too(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"http://{base_url}"):
        open_model("anthropic:claude", base_url=base_url)


def test_a_langchain_model_that_refuses_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(name: str, **_: object) -> None:
        raise ValueError("temperature too high")

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    with pytest.raises(ConfigurationError, match="temperature too high"):
        open_model("anthropic:claude")


def test_settings_that_do_not_fit_are_not_ignored(tmp_path: Path) -> None:
    recording = tmp_path / "r.jsonl"
    Recorder(Scripted(), recording)
    with pytest.raises(ConfigurationError, match="base_url"):
        open_model(Scripted(), base_url="http://x")
    with pytest.raises(ConfigurationError, match="api_key"):
        open_model(f"replay:{recording}", api_key="k")
    with pytest.raises(ConfigurationError, match="options"):
        open_model(f"replay:{recording}", options={"spice": 1})
    with pytest.raises(ConfigurationError, match="base_url"):
        open_model("llamacpp:smollm2-135m", base_url="http://x")


def test_what_is_neither_string_nor_model() -> None:
    with pytest.raises(ConfigurationError, match="int"):
        open_model(7)  # type: ignore[arg-type]


def test_a_hosted_model_without_a_key() -> None:
    with pytest.raises(MissingKeyError):
        open_model("openai:gpt-5.1")


def test_opening_models_loads_no_more_than_it_needs() -> None:
    code = """
import sys, cascade.models
heavy = ("openai", "ollama", "httpx", "httpx2", "aiohttp", "xllamacpp", "langchain", "langgraph")
def loaded():
    chat = "langchain_core.language_models.chat_models"
    return [m for m in (*heavy, chat) if m in sys.modules]
print([m for m in sys.modules if m.startswith("cascade.models.")])
print(loaded())
cascade.models.open_model("openai:m", base_url="http://localhost:1/v1")
cascade.models.open_model("ollama:m")
print(loaded())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, *clients = done.stdout.splitlines()
    names = re.findall(r"cascade\.models\.(\w+)", modules)
    assert sorted(names) == ["base", "failures", "loops", "registry"]
    assert clients == ["[]", "[]"]


def test_names_that_are_loaded_when_they_are_needed_are_there() -> None:
    assert all(hasattr(cascade.models, name) for name in cascade.models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cascade.models.nothing

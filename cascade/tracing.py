"""Tracing: how LangChain's callbacks (LangSmith, `stream_mode="messages"`) see a call of a model.

Adapters call providers directly, so each call is reported to the callbacks of the run as the
chat-model run that it is. The tag `nostream` keeps drafts, checks and audits out of
`stream_mode="messages"`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config

from cascade.ledger.ledger import Attempt
from cascade.models.base import Chunk
from cascade.run import Call
from cascade.state import Completion

NOSTREAM = "nostream"
"""LangGraph's tag of model runs that `stream_mode="messages"` leaves out."""


async def traced(
    call: Call, attempt: Attempt, on_wire: Callable[[Call, Attempt], Awaitable[Completion]]
) -> Completion:
    """The answer of a call, reported to the callbacks of its run.

    Raises:
        ModelError: the call failed; the callbacks know it too.
    """
    if call.tier.model.traces_itself:
        return await on_wire(call, attempt)
    manager = get_async_callback_manager_for_config(_described(call))
    if not manager.handlers:
        return await on_wire(call, attempt)
    model, request = call.tier.model, call.request
    parameters = {
        "model": model.model,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "tools": [dict(tool) for tool in request.tools] or None,
    }
    (reported,) = await manager.on_chat_model_start(
        {"lc": 1, "type": "not_implemented", "id": ["cascade", model.provider, model.model]},
        [list(request.messages)],
        name=model.name,
        invocation_params={key: value for key, value in parameters.items() if value is not None},
    )
    pieces: list[str] = []
    hear = call.on_chunk

    def listen(chunk: Chunk) -> str | None:
        pieces.append(chunk.text)
        return hear(chunk) if hear is not None else None

    heard = call if hear is None else replace(call, on_chunk=listen)
    try:
        completion = await on_wire(heard, attempt)
    except BaseException as error:
        await reported.on_llm_error(error, response=LLMResult(generations=[]))
        raise
    for piece in filter(None, pieces):
        generated = ChatGenerationChunk(message=AIMessageChunk(content=piece))
        await reported.on_llm_new_token(piece, chunk=generated)
    info = {"finish_reason": completion.finish_reason, "model_name": completion.model}
    generation = ChatGeneration(message=completion.to_message(call.tier.name), generation_info=info)
    await reported.on_llm_end(LLMResult(generations=[[generation]], llm_output=info))
    return completion


def _described(call: Call) -> RunnableConfig:
    """The configuration of the call's own run, with the names that LangSmith counts by."""
    config: dict[str, Any] = dict(call.runtime.config or {})
    tier, request = call.tier, call.request
    metadata = {
        **(config.get("metadata") or {}),
        "ls_provider": tier.model.provider,
        "ls_model_name": tier.model.model,
        "ls_model_type": "chat",
        "ls_temperature": request.temperature,
        "ls_max_tokens": request.max_tokens,
        "cascade_tier": tier.name,
        "cascade_node": call.node,
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    tags = [*(config.get("tags") or ()), NOSTREAM]
    return cast("RunnableConfig", {**config, "tags": tags, "metadata": metadata})

"""Tracing: how LangChain's callbacks (LangSmith and its like) see a call of a model.

Adapters call providers directly, so each call is reported to the callbacks of the run as the
chat-model run that it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config

from cascade.ledger.ledger import Attempt
from cascade.run import Call
from cascade.state import Completion


async def traced(
    call: Call, attempt: Attempt, on_wire: Callable[[Call, Attempt], Awaitable[Completion]]
) -> Completion:
    """The answer of a call, reported to the callbacks of its run."""
    model, request = call.tier.model, call.request
    if model.traces_itself:
        return await on_wire(call, attempt)
    parameters = {"temperature": request.temperature, "max_tokens": request.max_tokens}
    given = {name: value for name, value in parameters.items() if value is not None}
    metadata = {  # LangSmith counts by these names
        "ls_provider": model.provider,
        "ls_model_name": model.model,
        "ls_model_type": "chat",
        **{f"ls_{name}": value for name, value in given.items()},
        "cascade_tier": call.tier.name,
        "cascade_node": call.node,
    }
    config: dict[str, Any] = dict(call.runtime.config or {})
    config["metadata"] = {**(config.get("metadata") or {}), **metadata}
    # LangGraph leaves the tag out of `stream_mode="messages"`: drafts, checks and audits.
    config["tags"] = [*(config.get("tags") or ()), "nostream"]
    manager = get_async_callback_manager_for_config(cast("RunnableConfig", config))
    (reported,) = await manager.on_chat_model_start(
        {"lc": 1, "type": "not_implemented", "id": ["cascade", model.provider, model.model]},
        [list(request.messages)],
        name=model.name,
        invocation_params={"model": model.model, **given},
    )
    try:
        completion = await on_wire(call, attempt)
    except BaseException as error:
        await reported.on_llm_error(error)
        raise
    info = {"finish_reason": completion.finish_reason, "model_name": completion.model}
    generation = ChatGeneration(message=completion.to_message(call.tier.name), generation_info=info)
    await reported.on_llm_end(LLMResult(generations=[[generation]], llm_output=info))
    return completion

"""The function through which a model is asked, within all middleware: the ledger, then the wire."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage

from cascade.errors import MalformedResponseError
from cascade.ledger.ledger import Attempt, Ledger
from cascade.ledger.outlook import characters
from cascade.models.base import Chunk, Model
from cascade.run import Call, Parts
from cascade.state import Completion, Usage


class CompositeModel(Model):
    """A model that asks other models, such as an agent: each of their calls is an attempt of its
    own, which it books itself."""

    def check(self, parts: Parts) -> None:
        """Refuse a cascade in which it must not stand."""

    @abstractmethod
    async def answer(self, call: Call, attempt: Attempt, ledger: Ledger) -> Completion:
        """The answer to a call; what it asks in turn is made within `ledger.attempt`."""


async def send(call: Call, ledger: Ledger) -> Completion:
    """One attempt of a call, which has one entry in the ledger however it ends.

    Raises:
        ModelError: the call failed.
        LedgerError: the attempt cannot be written down, so nothing was sent.
    """
    run, asked = call.run, call.request
    node, tags = call.node if run.kind != "shadow" else "shadow", run.settings.get("tags") or {}
    attempt = Attempt(run.id, node, call.tier, asked.messages, asked.max_tokens, tags)
    if isinstance(call.tier.model, CompositeModel):
        return replace(await call.tier.model.answer(call, attempt, ledger), tier=call.tier.name)
    async with ledger.attempt(attempt):
        callbacks = (call.runtime.config or {}).get("callbacks")
        looked_on = getattr(callbacks, "handlers", callbacks) and not call.tier.model.traces_itself
        completion = await (_traced if looked_on else _on_wire)(call, attempt)
        added = _added(run.messages, asked.messages, completion.usage.input_tokens)
        completion = replace(completion, tier=call.tier.name, added_tokens=added)
        attempt.completion = completion
    return completion


async def _on_wire(call: Call, attempt: Attempt) -> Completion:
    """The answer of the model, in pieces where there is a reader of them."""
    model, hear = call.tier.model, call.on_chunk
    if hear is None:
        return await model.complete(call.request)
    hear(Chunk(first=True))
    texts, tokens = list[str](), 0
    async with aclosing(model.stream(call.request)) as chunks:
        async for chunk in chunks:
            attempt.heard += len(chunk.text)
            texts.append(chunk.text)
            tokens += len(chunk.logprobs) or bool(chunk.text)
            if chunk.completion is not None:
                return chunk.completion
            reason = hear(chunk)
            if reason is not None:
                call.run.stopped = attempt.note = reason
                return Completion(
                    text="".join(texts),
                    model=model.model,
                    usage=Usage(output_tokens=tokens),
                    finish_reason="stopped",
                )
    raise MalformedResponseError(
        f"{model.name} ended its stream without a completion.", model=model.name, billed=None
    )


async def _traced(call: Call, attempt: Attempt) -> Completion:
    """The same, reported to the callbacks of the run (LangSmith and its like) as the chat-model run
    that it is."""
    from langchain_core.outputs import ChatGeneration, LLMResult  # noqa: PLC0415 - for tracers
    from langchain_core.runnables import config as runnables  # noqa: PLC0415

    model, request = call.tier.model, call.request
    given = {n: v for n in ("temperature", "max_tokens") if (v := getattr(request, n)) is not None}
    config: Any = dict(call.runtime.config or {})
    config["metadata"] = (config.get("metadata") or {}) | {
        "ls_provider": model.provider,  # LangSmith counts by these names
        "ls_model_name": model.model,
        "ls_model_type": "chat",
        **{f"ls_{name}": value for name, value in given.items()},
        "cascade_tier": call.tier.name,
        "cascade_node": call.node,
    }
    # LangGraph leaves the tag out of `stream_mode="messages"`: drafts, checks and audits.
    config["tags"] = [*(config.get("tags") or ()), "nostream"]
    (reported,) = await runnables.get_async_callback_manager_for_config(config).on_chat_model_start(
        {"lc": 1, "type": "not_implemented", "id": ["cascade", model.provider, model.model]},
        [list(request.messages)],
        name=model.name,
        invocation_params={"model": model.model, **given},
    )
    try:
        completion = await _on_wire(call, attempt)
    except BaseException as error:
        await reported.on_llm_error(error)
        raise
    info = {"finish_reason": completion.finish_reason, "model_name": completion.model}
    generation = ChatGeneration(message=completion.to_message(call.tier.name), generation_info=info)
    await reported.on_llm_end(LLMResult(generations=[[generation]], llm_output=info))
    return completion


def _added(asked: Sequence[BaseMessage], sent: Sequence[BaseMessage], tokens: int | None) -> int:
    """Tokens of a prompt that middleware put before or into the conversation: the large model alone
    would not read them, so no baseline counts them."""
    if not tokens or len(sent) <= len(asked):
        return 0
    size = characters(sent)
    return round(tokens * max(0, size - characters(asked)) / size) if size else 0

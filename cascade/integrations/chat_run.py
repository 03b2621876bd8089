"""The run of a cascade inside the run of a chat model: what it hides, and what it tells."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langgraph.config import get_stream_writer

from cascade.agents.around import TAGS
from cascade.agents.border import LOCAL_ONLY, LocalOnly
from cascade.agents.showing import DETAILS, STREAM_TOKENS
from cascade.errors import StreamInterruptedError
from cascade.events import Event, Retracted, Token
from cascade.ledger.tags import AGENT
from cascade.result import CascadeResult

RunManager = AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun


@contextmanager
def outside_of_runs() -> Iterator[None]:
    """What begins here is a run of its own, and none of the run around it."""
    token = var_child_runnable_config.set(None)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def stream_writer() -> Callable[[Any], None] | None:
    """What writes to the custom stream of the graph that the call is made in, if it is in one."""
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):
        return None


async def steady(
    events: AsyncIterator[Event | CascadeResult], way_out: str
) -> AsyncGenerator[Event | CascadeResult]:
    """The same events for a reader from whom nothing that was shown can be taken back.

    Args:
        events: of a run.
        way_out: what to do instead, for the error.

    Raises:
        StreamInterruptedError: a part of the answer was shown, and is withdrawn.
    """
    shown = False
    async for event in events:
        shown = shown or isinstance(event, Token)
        if isinstance(event, Retracted) and shown:
            raise StreamInterruptedError(
                f"{event.reason}. A part of the answer was shown already: {way_out}",
                model="cascade",
                billed=None,
            )
        yield event


def inner_config(
    run_manager: RunManager | None,
    *,
    streams: bool,
    local_only: LocalOnly = False,
    details: bool = False,
) -> RunnableConfig:
    """The configuration of the cascade's own run.

    Only tracers look into it: to whoever counts tokens or shows them, this is one model call, and
    they would count twice and show what was rejected.
    """
    outer = var_child_runnable_config.get() or {}
    around = outer.get("configurable", {})
    stays = local_only or around.get(LOCAL_ONLY, False)
    configurable: dict[str, Any] = {STREAM_TOKENS: streams, LOCAL_ONLY: stays, DETAILS: details}
    if thread := around.get("thread_id"):
        configurable["thread_id"] = thread
    config = RunnableConfig(configurable=configurable)
    metadata = dict(run_manager.metadata if run_manager else {})
    tags: Any = metadata.get(TAGS, {})
    if isinstance(tags, Mapping) and (agent := metadata.get("lc_agent_name")):
        tags = {AGENT: agent, **tags}
    if tags:
        config["metadata"] = {TAGS: tags}
    tracers: list[BaseCallbackHandler] = [
        handler
        for handler in (run_manager.inheritable_handlers if run_manager else ())
        if isinstance(handler, BaseTracer | AsyncBaseTracer)
        and not isinstance(handler, _StreamingCallbackHandler)
    ]
    if tracers and run_manager is not None:
        config["callbacks"] = AsyncCallbackManager(
            tracers, inheritable_handlers=tracers, parent_run_id=run_manager.run_id
        )
    return config

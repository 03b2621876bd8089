"""Examples: a draft is made with worked answers before its conversation. No baseline counts their
tokens, and a calibration that was made without them does not judge such a draft."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import convert_to_messages

from cascade.errors import ConfigurationError
from cascade.middleware.base import Ask, CascadeMiddleware
from cascade.run import Call
from cascade.state import Completion

Choose = Callable[[Sequence[BaseMessage]], "Sequence[Any] | Awaitable[Sequence[Any]]"]
"""Takes the conversation; returns examples, as messages or what LangChain reads as such, such as
`[("human", "2 + 2"), ("ai", "4")]`, and nothing where none fits."""


class Examples(CascadeMiddleware):
    """Examples for the first tier: after system messages, before the conversation.

    For a choice that needs more than the conversation, override `chosen`.

    Raises:
        ConfigurationError: it is no function.
    """

    def __init__(self, choose: Choose) -> None:
        if not callable(choose):
            raise ConfigurationError(f"Examples({choose!r}): give a function of the messages.")
        self.choose = choose

    async def chosen(self, call: Call) -> Sequence[BaseMessage]:
        """Examples for a call, oldest first."""
        found = self.choose(call.run.messages)
        return convert_to_messages(await found if inspect.isawaitable(found) else found)

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Put examples into the request of a draft of the first tier."""
        first = call.node == "draft" and not call.run.tier
        return await handler(with_examples(call, await self.chosen(call)) if first else call)


def with_examples(call: Call, shown: Sequence[BaseMessage]) -> Call:
    """The call with examples after its system messages, before the conversation."""
    asked = call.request.messages
    start = next((i for i, m in enumerate(asked) if m.type != "system"), len(asked))
    messages = (*asked[:start], *shown, *asked[start:])
    return replace(call, request=replace(call.request, messages=messages))

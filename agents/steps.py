"""What the answers of a conversation say about the steps that made them.

An agent asks its model step by step, and each answer remembers in its `response_metadata` which
tiers were asked for it and when. So the next step knows what became of the earlier ones from the
messages alone: also after a restart, in another process, and never of another conversation.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from cascade.ledger.tags import AGENT, current_tags
from cascade.state import Run

STEP = "step"
"""Key in an answer's `response_metadata`: `asked`, the tiers in the order in which they were, `at`
in seconds since 1970, the `agent` where entries are tagged with one, `degraded`, and `once` where
the answer is none for the next who asks."""

ONCE = "once"

LOOK_BACK = 8
"""The same tool calls are looked for in so many steps before: a longer circle is seldom one."""

Outcome = Literal["fine", "trouble", "straight"]
"""What a step says of the tier that drafts: its draft was accepted, or was not, or led nowhere, as
it called the tools of an earlier step again and learned nothing new; `straight` had no draft."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was answered.

    Attributes:
        place: of its answer among the messages; those before it are what was asked.
        asked: names of the tiers that were, in order.
        at: seconds since 1970 when the step began; None where nobody wrote it down.
        outcome: what it says of the tier that drafts.
        output_tokens: of the answering call, where known.
    """

    place: int
    asked: tuple[str, ...]
    at: float | None
    outcome: Outcome
    output_tokens: int | None = None


def told(run: Run, tier: str, *, degraded: bool = False, once: bool = False) -> dict[str, Any]:
    """What the answer of a step has in its metadata.

    Args:
        run: the step.
        tier: whose answer it is.
        degraded: whether it stands only because a larger tier could not be had.
        once: whether it holds for this run alone.
    """
    said: dict[str, Any] = {"asked": [*run.asked, tier], "at": int(run.begun_at)}
    if agent := current_tags().get(AGENT):
        said[AGENT] = agent
    if degraded:
        said["degraded"] = True
    if once:
        said[ONCE] = True
    return {STEP: said}


def steps_of(messages: Sequence[BaseMessage], tiers: Sequence[str]) -> list[Step]:
    """The steps of this cascade in a conversation, oldest first.

    Answers of others are left out: of other models, of cascades with other tiers, and of another
    agent than the one whose name the present entries are tagged with.

    Args:
        messages: the conversation so far.
        tiers: names from small to large.
    """
    agent = current_tags().get(AGENT)
    seen: deque[str | None] = deque(maxlen=LOOK_BACK)
    found = []
    for place, message in enumerate(messages):
        if isinstance(message, HumanMessage):
            seen.clear()  # whoever asks anew may need the same tools again
        if not isinstance(message, AIMessage):
            continue
        said = message.response_metadata.get(STEP)
        made = _made(message, messages, place)
        again = made is not None and made in seen
        seen.append(made)
        if isinstance(said, Mapping) and said.get(AGENT) == agent:
            step = _step(place, message, said, tiers, again=again)
            if step is not None:
                found.append(step)
    return found


def for_once(message: AIMessage) -> AIMessage:
    """The answer of a step, which holds for its run alone: no cache keeps it."""
    metadata = message.response_metadata
    said = {**metadata.get(STEP, {}), ONCE: True}
    return message.model_copy(update={"response_metadata": {**metadata, STEP: said}})


def is_for_once(metadata: Mapping[str, Any]) -> bool:
    """Whether an answer with this `response_metadata` is none for the next who asks."""
    return bool((metadata.get(STEP) or {}).get(ONCE))


def last_asked(messages: Sequence[BaseMessage], tiers: Sequence[str], tier: str) -> Step | None:
    """The last step in which this tier was asked; None where there was none.

    Whether it called a tool again is not looked at.

    Args:
        messages: the conversation so far.
        tiers: names from small to large.
        tier: one of them.
    """
    agent = current_tags().get(AGENT)
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        said = message.response_metadata.get(STEP) if isinstance(message, AIMessage) else None
        if (
            isinstance(message, AIMessage)
            and isinstance(said, Mapping)
            and said.get(AGENT) == agent
        ):
            step = _step(place, message, said, tiers, again=False)
            if step is not None and tier in step.asked:
                return step
    return None


def _step(
    place: int, message: AIMessage, said: Mapping[str, Any], tiers: Sequence[str], *, again: bool
) -> Step | None:
    asked = said.get("asked")
    if not isinstance(asked, Sequence) or not asked or not all(name in tiers for name in asked):
        return None
    at, usage = said.get("at"), message.usage_metadata
    outcome: Outcome = "trouble" if again or len(asked) > 1 or said.get("degraded") else "fine"
    return Step(
        place=place,
        asked=tuple(asked),
        at=at if isinstance(at, int | float) else None,
        outcome="straight" if asked[0] == tiers[-1] else outcome,
        output_tokens=usage["output_tokens"] if usage is not None else None,
    )


def _made(message: AIMessage, messages: Sequence[BaseMessage], place: int) -> str | None:
    """Tool calls with what came of them, as a text; None where there are none, or no results."""
    calls = message.tool_calls
    if not calls:
        return None
    results: dict[str | None, str] = {}
    for later in range(place + 1, len(messages)):
        following = messages[later]
        if not isinstance(following, ToolMessage):
            break
        results[following.tool_call_id] = str(following.text)
    if any(call["id"] not in results for call in calls):
        return None
    made = [[call["name"], call["args"], results[call["id"]]] for call in calls]
    return json.dumps(sorted(made, key=repr), sort_keys=True, default=repr)

"""Objections to a draft that no confidence outweighs: empty, not the JSON that was asked for."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.state import Completion

UNSEEN = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
"""Soft hyphen, zero-width spaces, marks that turn writing around, and the plane of tags, in which
a whole sentence can be hidden. The joiners that Persian, Hindi and emojis need are left."""

TURN = r"""
    <(?=[|\uff5c][^|\uff5c<>\s]{1,48}[|\uff5c]>)            # <|im_start|>, <｜User｜>
    | <(?=(?:start|end)_of_turn>)
    | \[(?=/?(?:INST|SYSTEM_PROMPT)\])
"""
_GRADING = re.compile(
    TURN
    + r"""
    | \b(?:reply|respond|answer|say)\s+(?:with\s+)?(?:only\s+)?["'`*]*true\b(?!["'`*]*\s*(?:or|/|,))
    | \b(?:this|the|my)\s+answer\s+(?:above\s+)?(?:was|has\s+been)\s+(?:now\s+)?
      (?:verified|approved|checked|validated|reviewed)\b
    | \bis\s+the\s+answer\s+above\s+correct\b
    | \banswer\s+above\s+(?:was\s+verified|is\s+(?:correct|right|true))\b
    | \baccept\s+this\s+(?:answer|draft)\b
    | \bignore\s+(?:all\s+)?(?:the\s+)?(?:previous|prior|above|earlier)\s+instructions\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Marks of turns, and sentences about the checking of an answer that are hardly ever a part of
one. A grader's own words ("Verdict: A", "Confidence: 90") are none: graders are apps too."""


def objection(
    completion: Completion,
    *,
    schema: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    tool_choice: str | None = None,
) -> str | None:
    """Reason why this answer cannot be used, or None: its text has to satisfy the JSON schema, a
    call to name one of the tools (in OpenAI format) and satisfy its parameters; `tool_choice` is a
    tool's name, `required`, `none` or `auto`."""
    called, choice, problem = completion.called, tool_choice or "auto", None
    kinds = {"auto": True, "none": not called, "required": bool(called)}
    if not kinds.get(choice, choice in called):
        wanted = {"none": "none", "required": "one"}.get(choice, choice)
        made = f"calls {called[0]}" if called else "does not call a tool"
        problem = f"the answer {made}, though it has to call {wanted}"
    known = {tool["function"]["name"]: tool["function"] for tool in reversed(tools)}
    for name, args in ((call["name"], call["args"]) for call in completion.tool_calls):
        if name not in known:
            problem = problem or f"the answer calls a tool that does not exist: {name}"
        elif problem is None:
            parameters = known[name].get("parameters") or {}
            problem = _mismatch(f"the call of {name}", args, parameters)
    if problem is not None or completion.tool_calls:
        return problem
    if not completion.text.strip():
        used_up = ": its tokens or steps were used up" * (completion.finish_reason == "length")
        return f"the answer is empty{used_up}"
    if schema is None:
        return None
    try:
        value = json.loads(completion.text)
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {error}"
    return _mismatch("the answer", value, schema)


def _mismatch(what: str, value: Any, schema: Any) -> str | None:
    from cascade.confidence.schemas import mismatch  # noqa: PLC0415 - where there are schemas

    return mismatch(what, value, schema)


def repetition(messages: Sequence[BaseMessage], completion: Completion) -> str | None:
    """Reason why a step of an agent leads nowhere: all its calls were made in the step before it.
    A small model is the surer of a call, the more often it was made."""
    asked = next((m for m in reversed(messages) if not isinstance(m, ToolMessage)), None)
    if not isinstance(asked, AIMessage) or asked is messages[-1] or not completion.tool_calls:
        return None
    made = [(call["name"], call["args"]) for call in asked.tool_calls]
    if all((call["name"], call["args"]) in made for call in completion.tool_calls):
        again = ", ".join(completion.called)
        return f"the answer repeats the call of the step before it: {again}"
    return None


def speaks_of_grading(text: str) -> str | None:
    """The words in which an answer speaks to its checker, None where it does not. They speak
    against a draft, never for it. An answer about grading or chat templates is found as well."""
    found = _GRADING.search(unicodedata.normalize("NFKC", UNSEEN.sub("", text)))
    return found and " ".join(found.string[found.start() :][:40].split())

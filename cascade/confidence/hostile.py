"""What keeps a text that is judged from speaking to its judge.

Drafts, questions and documents may be written by somebody who wants a wrong answer accepted. A
check shows them as data: without control tokens of chat templates, which llama.cpp and servers
like it read as such wherever they stand, without characters that nobody sees, and between tags
that no text can close.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

_UNSEEN = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
"""Soft hyphen, zero-width spaces, marks that turn writing around, and the plane of tags, in which
a whole sentence can be hidden. The joiners that Persian, Hindi and emojis need are left."""

_TURN = r"""
    <(?=[|\uff5c][^|\uff5c<>\s]{1,48}[|\uff5c]>)            # <|im_start|>, <｜User｜>
    | <(?=(?:start|end)_of_turn>)
    | \[(?=/?(?:INST|SYSTEM_PROMPT)\])
"""
_CONTROL = re.compile(
    _TURN
    + r"""
    | <(?=/?(?:s|bos|eos|pad|unk|sep|cls|mask)>|</?SYS>>)
    | \[(?=/?(?:TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|TOOL_CONTENT)\])
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""The first character of a control token of a chat template."""

_GRADING = re.compile(
    _TURN
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


def as_data(text: str) -> str:
    """The text as a check may show it: no control token is left, and nothing that is unseen.

    A control token keeps its letters and gets a space, so that it is read as the words that it
    is. What holds neither comes back as it is.
    """
    return _CONTROL.sub(r"\g<0> ", _UNSEEN.sub("", text))


def as_json(text: str) -> str:
    """The text as a JSON string in which no control token is spelled, and which reads as the text.

    For who has to see every character of it: nothing is left out.
    """
    quoted = json.dumps(text, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def seal(*texts: str) -> str:
    """Twelve hexadecimal digits for the tags around these texts, the same for the same texts.

    A digest of all of them: a recording and a prompt cache find the check again, and a text that
    names its own digest has another one by that (it would take 2⁴⁸ trials, and all of the texts).
    """
    parts = "\x00".join(texts)
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def messages_as_data(messages: Sequence[BaseMessage]) -> tuple[BaseMessage, ...]:
    """A conversation whose texts are data; messages that were data already are the same ones."""
    return tuple(map(_message_as_data, messages))


def speaks_of_grading(text: str) -> str | None:
    """The words in which an answer speaks to whoever checks it, None where it does not.

    Such words speak against a draft, never for it. They are found in English; an answer that is
    about grading or about chat templates is found as well.
    """
    found = _GRADING.search(unicodedata.normalize("NFKC", _UNSEEN.sub("", text)))
    return (
        None
        if found is None
        else " ".join(found.string[found.start() : found.start() + 40].split())
    )


def _message_as_data(message: BaseMessage) -> BaseMessage:
    update = {"content": _plain(message.content)}
    if isinstance(message, AIMessage) and message.tool_calls:
        update["tool_calls"] = _plain(message.tool_calls)
    if all(getattr(message, name) == value for name, value in update.items()):
        return message
    return message.model_copy(update=update)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return as_data(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


__all__ = ["as_data", "as_json", "messages_as_data", "seal", "speaks_of_grading"]

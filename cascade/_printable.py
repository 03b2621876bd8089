"""Text of others, as it may stand in a log, on a terminal or in a table.

A newline forges a line of a log, an escape sequence moves the cursor of whoever reads it, sets the
title of the window or writes to the clipboard, and marks of direction turn a line around.
"""

from __future__ import annotations

import json
import re
from typing import Literal

__all__ = ["printable"]

_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, ESC and the one-character CSI among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of direction
    "\u2028\u2029"  # what some programs take for the end of a line
    "\ufff9-\ufffb\U000e0000-\U000e007f"  # notes between lines, and letters that nobody sees
    "\ud800-\udfff]"  # halves of characters, which no file takes
)


def printable(text: str, keep: str = "", *, form: Literal["python", "json"] = "python") -> str:
    r"""The text with `\x1b` for what acts instead of showing.

    Args:
        text: from anywhere.
        keep: characters that stay, such as line breaks where a line may end.
        form: how it is written; in a JSON document as `\u001b`, which is the same document.
    """
    if text.isascii() and text.isprintable():
        return text  # nearly all
    escape = _json if form == "json" else _python
    return _ACTING.sub(lambda found: found[0] if found[0] in keep else escape(found[0]), text)


def _python(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json(character: str) -> str:
    return json.dumps(character)[1:-1]

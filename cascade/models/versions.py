"""Whether the model that answered is the one that was asked."""

from __future__ import annotations

import re

_VERSION = re.compile(r"[-@:](latest|preview|exp|\d{3,8}|\d{4}-\d{2}(-\d{2})?|\d{2}-\d{2})$")
"""What providers hang on a name: `gpt-5.1-2025-11-13`, `gemini-1.5-pro-002`, `qwen2.5:latest`."""


def is_another(asked: str, answered: str) -> bool:
    """Whether a reply names a model that is no version of the one that was asked.

    `gpt-4o-2024-08-06` is a version of `gpt-4o`; `gpt-4o-mini` is another model.
    """
    return _plain(asked) != _plain(answered)


def _plain(name: str) -> str:
    """The name without its path, its version, and how it is written."""
    plain = name.strip().lower().rpartition("/")[2]
    while found := _VERSION.search(plain):
        plain = plain[: found.start()]
    return plain

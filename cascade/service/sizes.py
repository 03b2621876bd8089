"""How long a prompt is, for what a budget puts aside."""

from __future__ import annotations

from typing import Any

IMAGE_CHARACTERS = 4_500
"""What an image, a sound or a file counts: 1,500 tokens, as much as providers charge for a large
image. Its encoding may have millions of characters, none of which are read as text."""

ENCODED = frozenset({"url", "image_url", "images", "data", "file_data"})
"""Where OpenAI's and Ollama's protocols have encoded files."""


def prompt_size(body: Any) -> int:
    """Characters of all text in the JSON of a request, tools and schemas among it."""
    total, left = 0, [("", body)]
    while left:  # not by recursion: how deep it is, the client says
        name, value = left.pop()
        if isinstance(value, str):
            encoded = name in ENCODED and len(value) > IMAGE_CHARACTERS
            total += IMAGE_CHARACTERS if encoded else len(value)
        elif isinstance(value, dict):
            total += sum(len(key) for key in value)
            left += value.items()
        elif isinstance(value, list):
            left += [(name, item) for item in value]
        else:
            total += 4
    return total

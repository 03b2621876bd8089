"""Examples from a file, and a guess of what asking them will cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from langchain_core.messages import AnyMessage
from pydantic import JsonValue

from cascade.errors import ConfigurationError, InputError
from cascade.questions import to_messages
from cascade.state import Usage
from cascade.tiers import OpenTier

CHARACTERS_PER_TOKEN = 4
ASSUMED_OUTPUT_TOKENS = 200
"""For the cost shown beforehand, where the tier has no `max_tokens`."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question with what is known about its answer.

    Attributes:
        id: unique; the line's number where the file has none.
        messages: the conversation.
        reference: the right answer, None when there is none.
        labels: answers that a person judged, answer → right or wrong.
    """

    id: str
    messages: list[AnyMessage]
    reference: JsonValue = None
    labels: dict[str, bool] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)


def read_examples(path: str | Path) -> list[Example]:
    """Examples from JSON lines: `question` or `messages`, and `reference` or `labels` or neither.

    Raises:
        ConfigurationError: a line cannot be read, or two have one id; the message names it.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 (byte {error.start}).") from error
    examples = [_example(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise ConfigurationError(f"{path} has no examples in it.")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ConfigurationError(f"{path}: two examples have the id {example.id!r}.")
        seen.add(example.id)
    return examples


def _example(path: Path, number: int, line: str) -> Example:
    try:
        row: Any = json.loads(line)
        if not isinstance(row, dict):
            raise InputError("it is not a JSON object.")
        question = row.get("question", row.get("prompt", row.get("messages")))
        if question is None:
            raise InputError("it has neither 'question' nor 'messages'.")
        messages = to_messages(question)
    except (ValueError, InputError) as error:
        raise ConfigurationError(f"{path}:{number}: {error}") from error
    labels = row.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, bool) for v in labels.values()):
        raise ConfigurationError(
            f"{path}:{number}: labels maps answers to true or false, not {labels!r}."
        )
    return Example(
        str(row.get("id", number)),
        messages,
        row.get("reference", row.get("answer")),
        {answer.strip(): right for answer, right in labels.items()},
    )


def expected_cost(
    examples: Sequence[Example], tiers: Sequence[OpenTier], *, calls: int = 1
) -> Decimal | None:
    """A rough guess of what collecting will cost at most, from text length and `max_tokens`.

    Args:
        examples: what to ask.
        tiers: whom to ask.
        calls: how many calls an example takes, with those of its signals.

    Returns:
        Dollars; None when a tier has no token price.
    """
    total = Decimal(0)
    for example in examples:
        text = sum(len(str(message.text)) for message in example.messages)
        for tier in tiers:
            output = tier.settings.max_tokens or ASSUMED_OUTPUT_TOKENS
            usage = Usage(input_tokens=text // CHARACTERS_PER_TOKEN + 16, output_tokens=output)
            cost = tier.pricing.cost(usage)
            if cost is None:
                return None
            total += cost * calls
    return total

"""What a calibration is made of and bound to: labelled drafts, models, prompts. Needs no numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import BaseMessage

from cascade.state import Record

Labels = Literal["references", "people", "agreement with the large model"]


class ModelIdentity(Record):
    """A model by name and, where it can be had, by the digest of its weights."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledDraft:
    """The features of a draft and who was right.

    Attributes:
        features: of all signals.
        correct: of the draft, 0 to 1.
        large_correct: of the large model's answer; None when it was not asked.
    """

    features: Mapping[str, float]
    correct: float
    large_correct: float | None = None


@dataclass(frozen=True, slots=True)
class MadeFor:
    """What a calibration is bound to; see `Calibration`."""

    small: ModelIdentity
    large: ModelIdentity | None
    task_hash: str
    system_hash: str | None
    labels: Labels
    memory: str | None = None


def system_hash(messages: Sequence[BaseMessage]) -> str:
    """A hash of the system messages of a conversation."""
    return digest([str(message.text) for message in messages if message.type == "system"])


def digest(value: Any) -> str:
    """A short stable hash of JSON values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = ["LabelledDraft", "Labels", "MadeFor", "ModelIdentity", "digest", "system_hash"]

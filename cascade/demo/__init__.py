"""A recorded evaluation on packaged questions: a real small model drafts on this machine.

Each question is asked after some examples of its kind, since a model of 135M parameters continues
patterns and follows no instructions. The large model's answers were recorded once, of a real model
too, and are replayed. All else is `cascade try`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import zip_longest
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from pydantic import JsonValue

from cascade.api import Cascade
from cascade.calibrate import SIGNALS, AlwaysEscalate
from cascade.errors import ConfigurationError
from cascade.evaluation.crossfit import LEAST_ROWS
from cascade.evaluation.recordings import Example
from cascade.ledger.prices import Price
from cascade.tiers import Tier

SMALL = "llamacpp:smollm2-135m"

PLACE = files("cascade.demo")
"""Questions, examples of each kind, and the large model's recorded answers."""

PER_HOUR, PER_MILLION = Price(per_hour="0.05"), Price(input="0.1", output="0.1")
"""Assumed dollars: per hour in which the small model computes, about what a cloud asks for two
shared cores; per million tokens, the list price of a hosted model of the same family and size."""

ASSUMED = (
    "the small model costs $0.05 per hour in which it computes (hardware and power; its time is "
    "measured)",
    "the large one $0.1 per million tokens, the list price of Qwen1.5-0.5B at Together (nobody "
    "hosts it itself)",
)

SHORT: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0}
"""Enough for every answer of the examples' form, and little lost when a model rambles."""


def questions(n: int | None = None) -> list[Example]:
    """The first `n` questions in turn over the kinds (all of them without `n`), sorted by kind:
    neighbours share their examples, which llama.cpp then reads once.

    Raises:
        ConfigurationError: `n` is too few to say anything, or more than there are.
    """
    shown = json.loads(PLACE.joinpath("examples.json").read_text(encoding="utf-8"))
    lines = PLACE.joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    kinds: dict[str, list[Example]] = {}
    for row in map(json.loads, lines):
        messages: list[AnyMessage] = []
        for asked, answered in shown[row["kind"]]:
            messages += [HumanMessage(asked), AIMessage(answered)]
        messages.append(HumanMessage(row["question"]))
        right: JsonValue = [row["answer"], *row["accepted"]]
        kinds.setdefault(row["kind"], []).append(Example(row["id"], tuple(messages), right))
    everything = [e for one_of_each in zip_longest(*kinds.values()) for e in one_of_each if e]
    if n is not None and not LEAST_ROWS <= n <= len(everything):
        raise ConfigurationError(
            f"n={n}: the demo has {len(everything)} questions and needs {LEAST_ROWS} of them."
        )
    return sorted(everything[:n], key=lambda example: example.id)


def open_cascade(small: str = SMALL) -> Cascade:
    """The cascade of a small model and the recorded one, each of which is asked every question."""
    # One at a time, so that a draft's busy time is its own.
    own = {"n_parallel": 1} if small.startswith("llamacpp:") else {}
    recorded = f"replay:{PLACE.joinpath('recorded.jsonl')}"
    return Cascade(
        Tier(small, name="small", price=PER_HOUR, options=own, **SHORT),
        Tier(recorded, name="large", price=PER_MILLION, **SHORT),
        policy=AlwaysEscalate(),
        signals=SIGNALS,
    )

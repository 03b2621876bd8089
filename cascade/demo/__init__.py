"""A recorded evaluation on packaged questions: a real small model drafts on this machine.

Each question is asked after some examples of its kind, since a model of 135M parameters continues
patterns and follows no instructions. The large model's answers were recorded once, of a real model
too, and are replayed. All else is `cascade try`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.api import Cascade
from cascade.calibrate import SIGNALS
from cascade.errors import ConfigurationError
from cascade.evaluation.crossfit import LEAST_ROWS
from cascade.evaluation.recordings import Example, read_examples
from cascade.ledger.prices import Price
from cascade.tiers import Tier

SMALL = "llamacpp:smollm2-135m"

ASSUMED = (
    "the small model costs $0.05 per hour in which it computes (hardware and power, as a cloud "
    "asks for two shared cores; its time is measured)",
    "the large one $0.1 per million tokens, the list price of Qwen1.5-0.5B at Together (nobody "
    "hosts it itself)",
)


def questions(n: int | None = None) -> list[Example]:
    """The first `n` questions in turn over the kinds (all of them without `n`), sorted by kind:
    neighbours share their examples, which llama.cpp then reads once.

    Raises:
        ConfigurationError: `n` is too few to say anything, or more than there are.
    """
    everything = read_examples(Path(__file__).with_name("questions.jsonl"))
    if n is not None and not LEAST_ROWS <= n <= len(everything):
        raise ConfigurationError(
            f"n={n}: the demo has {len(everything)} questions and needs {LEAST_ROWS} of them."
        )
    return sorted(everything[:n], key=lambda example: example.id)


def open_cascade(small: str = SMALL) -> Cascade:
    """The cascade of a small model and the recorded one, each of which is asked every question."""
    # Enough for every answer of the examples' form, and little lost when a model rambles.
    short: Any = {"max_tokens": 24, "temperature": 0.0}
    # One at a time, so that a draft's busy time is its own.
    own = {"n_parallel": 1} if small.startswith("llamacpp:") else {}
    recorded = f"replay:{Path(__file__).with_name('recorded.jsonl')}"
    return Cascade(
        Tier(small, name="small", price=Price(per_hour="0.05"), options=own, **short),
        Tier(recorded, name="large", price=Price(input="0.1", output="0.1"), **short),
        signals=SIGNALS,
    )

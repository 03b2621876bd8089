"""Counts and times as providers send them → what can be true of them; the rest is unknown.

A wrong count would become a wrong figure of money, and that is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade.state import Usage

MOST_TOKENS = 20_000_000
"""Of one call, in or out: twice the longest context there is. What is above it is no count."""

MOST_TIME = 10**15
"""In milliseconds or nanoseconds: more is no time that a call took."""


def count(value: object) -> int | None:
    """A number of tokens; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        return None
    return value


def read_counts(
    *,
    read: object,
    written: object,
    wrote: bool,
    cached: object = None,
    cache_write: object = None,
    reasoning: object = None,
    total: object = None,
) -> Usage:
    """The usage of a call, where its counts can be true together.

    Nobody reads a prompt of no tokens or writes an answer of none; some servers send zeros where
    they have not counted. Parts are no more than their whole: some count what they read from
    their cache beside the input. Where the reasoning is beside the output (xAI, Gemini), the
    total shows it.

    Args:
        read: tokens of the prompt.
        written: tokens of the answer.
        wrote: whether there is an answer.
        cached: those of the prompt that were read from a cache.
        cache_write: those of the prompt that were written to it.
        reasoning: those of the answer that are thinking.
        total: all together.
    """
    given, made, thought = count(read) or None, count(written), count(reasoning)
    kept, stored = count(cached), count(cache_write)
    made = None if made == 0 and wrote else made
    if given is not None and (kept or 0) + (stored or 0) > given:
        given = None
    if made is not None and thought and count(total) == (given or 0) + made + thought:
        made += thought
    if made is not None and (thought or 0) > made:
        made = None
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=kept,
        cache_write_tokens=stored,
        reasoning_tokens=thought,
    )


def busy_ms(told: Mapping[str, object], names: Sequence[str], per_ms: float) -> float | None:
    """The time that a server computed, in milliseconds: the sum of its parts.

    None where no part is told, where one cannot be true, and where it is nothing at all.

    Args:
        told: the parts by name.
        names: which count.
        per_ms: so many of their units are a millisecond.
    """
    busy = 0.0
    for name in names:
        part = told.get(name)
        if part is None:  # Ollama leaves out what is 0
            continue
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part < MOST_TIME:
            return None
        busy += part / per_ms
    return busy or None

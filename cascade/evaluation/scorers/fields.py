"""JSON answers compared field by field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from cascade.errors import InputError
from cascade.evaluation.scorers.base import Reference

Leaf = str | int | float | bool | None
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonScorer:
    """Compares the fields of the reference with those of the answer; others do not count.

    Fields are paths, `order.items.0.name`. Numbers are compared as numbers, texts without the
    white space around them. An answer without JSON has no field right.

    Args:
        share: the score is the share of fields that agree; otherwise 1 when all do, else 0.
        only: the paths that count, or what they begin with; empty for all.
    """

    share: bool = False
    only: tuple[str, ...] = ()

    def __call__(self, answer: str, reference: Reference, question: str = "") -> float:
        """The score in [0, 1].

        Raises:
            InputError: the reference is not JSON, or has none of the fields.
        """
        leaves = _leaves_of_reference(reference)
        wanted = {path: leaf for path, leaf in leaves.items() if self._counts(path)}
        if not wanted:
            raise InputError(
                f"the reference {reference!r} has no field {' or '.join(self.only) or 'at all'}."
            )
        try:
            given = leaves_of(json_in(answer))
        except ValueError:
            return 0.0
        right = sum(path in given and _same(given[path], leaf) for path, leaf in wanted.items())
        return right / len(wanted) if self.share else float(right == len(wanted))

    def _counts(self, path: str) -> bool:
        return not self.only or any(
            path == wanted or path.startswith(f"{wanted}.") for wanted in self.only
        )


def json_in(text: str) -> JsonValue:
    """The JSON value in a text: all of it, a fenced block, or from the first brace to the last.

    Raises:
        ValueError: there is none.
    """
    opened = sorted((text.find(pair[0]), pair) for pair in ("{}", "[]") if pair[0] in text)
    braced = (text[start : text.rfind(pair[1]) + 1] for start, pair in opened)
    for piece in (text, *_FENCED.findall(text), *braced):
        try:
            value: JsonValue = json.loads(piece)
        except (ValueError, RecursionError):
            continue
        return value
    raise ValueError(f"no JSON in {text!r:.80}")


def _leaves_of_reference(reference: Reference) -> Mapping[str, Leaf]:
    if not isinstance(reference, str):
        return leaves_of(reference)
    try:
        return leaves_of(json_in(reference))
    except ValueError as error:
        raise InputError(f"the reference {reference!r} is not JSON: use another scorer.") from error


def leaves_of(value: JsonValue, path: str = "") -> dict[str, Leaf]:
    """Path → value of everything in a JSON value that has no parts; an empty part is one leaf."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            place: leaf
            for key, part in items
            for place, leaf in leaves_of(part, f"{path}.{key}" if path else str(key)).items()
        }
    if isinstance(value, dict | list):
        return {path: "{}" if isinstance(value, dict) else "[]"}
    return {path: value}


def _same(given: Leaf, wanted: Leaf) -> bool:
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(given, int | float) and isinstance(wanted, int | float):
        return given == wanted or math.isclose(given, wanted, rel_tol=1e-9)
    if isinstance(given, str) and isinstance(wanted, str):
        return given.strip() == wanted.strip()
    return given is wanted

"""Which line of a configuration file a key stands in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import yaml

Place = tuple[str | int, ...]
"""The way to a value: names of keys, and numbers in lists."""

MOST_PLACES = 20_000
"""More values than any configuration has."""

_HEADER = re.compile(r"^\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?$")
_WORD = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"^\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")
_PART = re.compile(_WORD)


class DuplicateKeyError(ValueError):
    """A key stands twice in one mapping; the second would silently win.

    Attributes:
        line: of the second.
        key: which.
    """

    def __init__(self, line: int, key: str) -> None:
        super().__init__(key)
        self.line = line
        self.key = key


def yaml_lines(text: str) -> Mapping[Place, int]:
    """The line of each key of a YAML document, counted from 1.

    Raises:
        yaml.YAMLError: it is no YAML.
        DuplicateKeyError: a key stands twice.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return {}
    # References to references multiply: a short text may stand for more than any memory holds.
    places = list(islice(_walk(root, ()), MOST_PLACES + 1))
    if len(places) > MOST_PLACES:
        raise yaml.YAMLError(f"it has more than {MOST_PLACES:,} places")
    return dict(places)


def _walk(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise DuplicateKeyError(key.start_mark.line + 1, name)
            seen.add(name)
            yield (*place, name), key.start_mark.line + 1
            yield from _walk(value, (*place, name))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*place, number), value.start_mark.line + 1
            yield from _walk(value, (*place, number))


def toml_lines(text: str) -> Mapping[Place, int]:
    """The line of each key of a TOML document that stands at the beginning of one."""
    lines: dict[Place, int] = {}
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _resolved(_parts(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            place = table
            for part in _parts(key[1]):
                place = (*place, part)
                lines.setdefault(place, number)
    return lines


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(dotted)]


def _resolved(parts: list[str], counts: Mapping[Place, int]) -> Place:
    """A header's way, in which the last element of each list of tables is meant."""
    place: Place = ()
    for position, part in enumerate(parts):
        place = (*place, part)
        if position < len(parts) - 1 and place in counts:
            place = (*place, counts[place])
    return place


def line_of(lines: Mapping[Place, int], place: Place) -> int | None:
    """The line of a value, or of the nearest thing that it stands in."""
    while place:
        if place in lines:
            return lines[place]
        place = place[:-1]
    return None


def shown(place: Place) -> str:
    """The way to a value as text: `cascades.support.tiers[0].model`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def at(data: Any, place: Place) -> Any:
    """The value at a place; None where there is none."""
    for part in place:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data

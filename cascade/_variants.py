"""Things that are made once per key and kept while they are used."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

KEPT = 64
"""An application has a handful of tool sets; one that makes tools per request must not grow."""


class Variants(Generic[K, V]):
    """The most recently used variants, by the content of a key that need not be hashable.

    Args:
        make: makes the variant of a key.
        kept: how many are kept.
    """

    def __init__(self, make: Callable[[K], V], kept: int = KEPT) -> None:
        self._make = make
        self._kept = kept
        self._made: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, key: K) -> V:
        name = json.dumps(_content(key), sort_keys=True, default=repr)
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(key)
                if len(self._made) > self._kept:
                    self._made.popitem(last=False)
            self._made.move_to_end(name)
            return self._made[name]


def _content(key: Any) -> Any:
    """What tells a key from others; of a record its fields, which are not copied."""
    if is_dataclass(key) and not isinstance(key, type):
        return {field.name: _content(getattr(key, field.name)) for field in fields(key)}
    return key

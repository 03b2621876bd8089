"""Which lessons are about what is asked now: by words (BM25), or by meaning (embeddings)."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple, Protocol

from langgraph.store.base import BaseStore

from cascade._together import together

Place = tuple[str, ...]
"""Whose lessons: of one tenant and one task. What is asked for one is never found for another."""

MOST_WORDS = 64
"""Words of a question that are looked for; the longest ones of a longer question."""

PAGE = 100
"""Places that a store is asked for at a time."""

_WORD = re.compile(r"\w+")


class Found(NamedTuple):
    """A lesson that is near to a question.

    Attributes:
        run_id: of the lesson.
        score: the higher, the nearer; comparable within one index alone.
    """

    run_id: str
    score: float


class LessonIndex(Protocol):
    """Finds lessons by their questions."""

    async def add(self, place: Place, run_id: str, question: str) -> None:
        """Take in a question; again for the same run replaces it."""
        ...

    async def remove(self, run_ids: Sequence[str]) -> None:
        """Forget these for good."""
        ...

    async def near(self, place: Place, question: str, limit: int) -> list[Found]:
        """The nearest ones of a place, nearest first."""
        ...


@dataclass(slots=True)
class WordIndex:
    """By words, in memory: BM25 (Robertson and Zaragoza, 2009) as SQLite's FTS5 computes it."""

    _lock: Lock = field(default_factory=Lock, repr=False)
    _file: sqlite3.Connection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._file = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA secure_delete = ON")
        self._file.execute(
            "CREATE VIRTUAL TABLE questions USING fts5(run_id UNINDEXED, place, question, "
            "tokenize = 'unicode61 remove_diacritics 2')"
        )

    async def add(self, place: Place, run_id: str, question: str) -> None:
        """Take in a question; again for the same run replaces it."""
        with self._lock:
            self._file.execute("DELETE FROM questions WHERE run_id = ?", (run_id,))
            self._file.execute(
                "INSERT INTO questions VALUES (?, ?, ?)", (run_id, _mark(place), question)
            )

    async def remove(self, run_ids: Sequence[str]) -> None:
        """Forget these for good."""
        with self._lock:
            self._file.executemany(
                "DELETE FROM questions WHERE run_id = ?", ((run_id,) for run_id in run_ids)
            )

    async def near(self, place: Place, question: str, limit: int) -> list[Found]:
        """The nearest ones of a place, nearest first."""
        words = sorted(set(_WORD.findall(question.casefold())), key=lambda word: (-len(word), word))
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in words[:MOST_WORDS])
        query = f'place : "{_mark(place)}" AND question : ({wanted})'
        with self._lock:
            rows = self._file.execute(
                # FTS5's bm25() is the smaller, the nearer; the place is no part of the score.
                "SELECT run_id, -bm25(questions, 0.0, 0.0, 1.0) AS score FROM questions "
                "WHERE questions MATCH ? ORDER BY score DESC, run_id LIMIT ?",
                (query, limit),
            ).fetchall()
        return [Found(run_id, score) for run_id, score in rows]


@dataclass(slots=True)
class MeaningIndex:
    """By meaning: a LangGraph store with an index of embeddings, kept wherever that store keeps it.

    Attributes:
        store: such as `InMemoryStore(index={"embed": …, "dims": …})`.
        root: the beginning of its namespaces.
    """

    store: BaseStore
    root: str = "cascade-lessons"

    async def add(self, place: Place, run_id: str, question: str) -> None:
        """Take in a question; again for the same run replaces it."""
        await self.store.aput(self._space(place), run_id, {"question": question}, ["question"])

    async def remove(self, run_ids: Sequence[str]) -> None:
        """Forget these for good, also those that another process has added."""
        spaces: list[Place] = []
        while page := await self.store.alist_namespaces(
            prefix=(self.root,), limit=PAGE, offset=len(spaces)
        ):
            spaces += page
        await together(self.store.adelete(space, run_id) for space in spaces for run_id in run_ids)

    async def near(self, place: Place, question: str, limit: int) -> list[Found]:
        """The nearest ones of a place, nearest first."""
        found = await self.store.asearch(self._space(place), query=question, limit=limit)
        return [Found(item.key, item.score or 0.0) for item in found]

    def _space(self, place: Place) -> tuple[str, ...]:
        # LangGraph refuses names with a full stop, and empty ones.
        return (self.root, _mark(place))


def _mark(place: Place) -> str:
    """One word for a place, by which no text can be taken for another's."""
    return "p" + "/".join(place).encode().hex()

"""Which texts have words in common: duplicates of lessons, and lessons that an evaluation asks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

NGRAM = 8
"""Words in a row that a lesson and an evaluation question may not share. GPT-3 took 8 to 13, by the
length of a set's texts (Brown et al., 2020, arXiv 2005.14165, appendix C); 8 removes more."""

BOILERPLATE = 10
"""In more lessons than this, a row of words is a form and no evaluation question. GPT-3's authors
left such rows out in the same way (same place)."""

SHORT = 8
"""A question of fewer words is compared by its set of words as well."""

SHORT_ALIKE = 0.7
"""Jaccard index of the words of two short questions from which they are the same one."""

ROW = 3
"""Words in a row that are compared as one to find near duplicates."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+?(?=[\u3040-\u9fff]|\b)")
"""Words; a character each in writing that has no spaces between them."""


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text without case and punctuation, in their order."""
    return tuple(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def rows_of(words: Sequence[str], n: int = ROW) -> frozenset[tuple[str, ...]]:
    """All rows of n words (shingles, Broder 1997); of fewer words the one row that they are."""
    if len(words) <= n:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    """|a ∩ b| / |a ∪ b|; 0 of two empty sets."""
    both = len(a & b)
    return both / (len(a) + len(b) - both) if both else 0.0


def near_pairs(
    sets: Sequence[frozenset[tuple[str, ...]]], alike: float
) -> Iterator[tuple[int, int]]:
    """All pairs (earlier, later) of sets with a Jaccard index of at least `alike`.

    Exact, without comparing all: of two such sets the rarest |x| − ⌈alike·|x|⌉ + 1 members of each
    have one in common (prefix filter; Bayardo, Ma and Srikant, "Scaling up all pairs similarity
    search", 2007).
    """
    counts = Counter(member for one in sets for member in one)
    seen: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    share = Fraction(alike).limit_denominator(1_000)
    for place, one in enumerate(sets):
        ranked = sorted(one, key=lambda member: (counts[member], member))
        prefix = ranked[: len(one) - ceil(share * len(one)) + 1]
        candidates = {other for member in prefix for other in seen[member]}
        for other in sorted(candidates):
            if jaccard(sets[other], one) >= alike:
                yield other, place
        for member in prefix:
            seen[member].append(place)


def joined(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of n items the first item that it hangs together with by pairs, or itself."""
    first = list(range(n))

    def root(item: int) -> int:
        while first[item] != item:
            first[item] = first[first[item]]
            item = first[item]
        return item

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        first[high] = low
    return [root(item) for item in range(n)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A text as it is compared: what was asked last, and all that was said."""

    question: str
    whole: str


class Evaluated:
    """Questions of an evaluation, that nothing to be trained on may hold.

    A text holds one where
    - its question has the same words (`the same`), or the question's words stand in a row in it
      (`contains it`; from 4 words on),
    - the rows of three words of both questions have a Jaccard index of `alike` or more, or, of
      questions of fewer than eight words, the words have one of 0.7 (`nearly the same`),
    - it shares a row of `ngram` words with it that is not in more than ten of the texts
      (`words in a row`).

    Args:
        questions: of the evaluation.
        ngram: words in a row.
        alike: Jaccard index.
    """

    def __init__(self, questions: Iterable[str], *, ngram: int = NGRAM, alike: float = 0.5) -> None:
        self._ngram, self._alike = ngram, alike
        self._words = [words for words in map(words_of, questions) if words]
        self._same = frozenset(self._words)
        self._sets = [rows_of(words) for words in self._words]
        self._by_row: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        for place, (words, rows) in enumerate(zip(self._words, self._sets, strict=True)):
            for row in rows:
                self._by_row[row].append(place)
            if len(words) < SHORT:
                for word in set(words):
                    self._by_word[word].append(place)
        long = (words for words in self._words if len(words) >= ngram)
        self._grams = frozenset(gram for words in long for gram in rows_of(words, ngram))
        lengths = {len(words) for words in self._words if len(words) >= 4}
        self._lengths = sorted(lengths)

    def found_in(self, texts: Sequence[Asked]) -> list[str | None]:
        """Of each text the rule by which it holds a question of the evaluation; None of none."""
        spoken = [words_of(text.whole) for text in texts]
        shared = [self._grams & rows_of(words, self._ngram) for words in spoken]
        often = Counter(gram for grams in shared for gram in grams)
        return [
            self._rule(words_of(text.question), words)
            or ("words in a row" if any(often[gram] <= BOILERPLATE for gram in grams) else None)
            for text, words, grams in zip(texts, spoken, shared, strict=True)
        ]

    def _rule(self, question: tuple[str, ...], words: tuple[str, ...]) -> str | None:
        if question in self._same:
            return "the same"
        if any(not self._same.isdisjoint(rows_of(words, n)) for n in self._lengths):
            return "contains it"
        rows = rows_of(question)
        near = {place for row in rows for place in self._by_row.get(row, ())}
        if any(jaccard(rows, self._sets[place]) >= self._alike for place in near):
            return "nearly the same"
        if len(question) < SHORT:
            own = frozenset(question)
            near = {place for word in own for place in self._by_word.get(word, ())}
            if any(jaccard(own, frozenset(self._words[p])) >= SHORT_ALIKE for p in near):
                return "nearly the same"
        return None

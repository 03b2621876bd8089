"""Log-probabilities as providers send them → the tokens of the answer, or None.

Servers send values that are no log-probabilities (vLLM's -9999, NaN, positive numbers), and
put tokens of thinking and tool calls into the list. Both would make a confident-looking number
out of something else, so what cannot be trusted is left out.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

from cascade.state import TokenLogprob

LOWEST = -100.0
"""Below this a value is a placeholder: vLLM writes -9999 where it has none."""


MOST_PLACES = 1000
"""Where an answer is found more often than that among the tokens, nobody knows which it is."""

MOST_TRIED = 100_000
"""Ways to fill the gaps of cut characters that are looked at."""

MOST_AHEAD = 256
"""Tokens of a stream that wait for their text; a character takes a few."""

ROUNDING = 1e-3
"""So much above 0 a value is a certain token, as the sum of its rounding."""


def read_logprob(value: object) -> float | None:
    """The value if it can be a natural log-probability, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN is in no range.
    return min(0.0, float(value)) if LOWEST <= value <= ROUNDING else None


def answer_logprobs(
    items: object,
    text: str,
    *,
    thinking: str | None = None,
    tool_calls: bool = False,
    trusted: bool = False,
) -> tuple[TokenLogprob, ...] | None:
    """The log-probabilities of the answer's tokens.

    Args:
        items: what the provider sent, a list of `{token, logprob, bytes?, top_logprobs?}`.
        text: the answer.
        thinking: the thinking that came before it.
        tool_calls: whether tool calls may stand in the list.
        trusted: the provider promises that the list covers the answer and nothing else, so
            that tokens count which spell it in the alphabet of their vocabulary (`ĠParis`).

    Returns:
        None when there are none, when they cannot be told from other tokens, or when one of them
        has no value: what is left would be the confidence of another answer.
    """
    if not items or not isinstance(items, Sequence) or isinstance(items, str):
        return None
    tokens = _objects(items)
    spellings = [spelling(token) for token in tokens]
    answer = _encoded(text)
    if not thinking and not tool_calls and b"".join(spellings) == answer and all(spellings):
        found: slice | None = slice(None)
    else:
        found = _span(spellings, answer, thinking, tool_calls)
    plain = bool(text) and not thinking and not tool_calls
    if found is None and not (
        plain and (_spell_nearly(spellings, text) or (trusted and _spell_raw(tokens, text)))
    ):
        return None
    return all_of(map(read_token, tokens if found is None else tokens[found]))


def all_of(tokens: Iterable[TokenLogprob | None]) -> tuple[TokenLogprob, ...] | None:
    """All of them, or None where there are none or one is missing."""
    known = list[TokenLogprob]()
    for token in tokens:
        if token is None:
            return None
        known.append(token)
    return tuple(known) or None


class Growing:
    """The log-probabilities of an answer while it arrives, as long as they spell it."""

    def __init__(self) -> None:
        self._items: list[object] = []
        self._text = ""
        self._trusted = True

    def add(self, items: object, text: str, *, plain: bool) -> tuple[TokenLogprob, ...]:
        """Take in a piece; returns the tokens that are complete with it.

        Tokens wait for their text: a character may take several. What is not spelled so (tool
        calls, thinking, templates) ends it: from there on nothing is returned.

        Args:
            items: what the provider sent with the piece.
            text: the piece.
            plain: whether it is text of the answer and nothing else.
        """
        if not (self._trusted and plain):
            self._trusted = False
            return ()
        self._items += items if isinstance(items, list) else []
        self._text += text
        tokens = _objects(self._items)
        spelled, awaited = b"".join(map(spelling, tokens)), self._text.encode(errors="replace")
        if spelled != awaited or not awaited:
            self._trusted = spelled.startswith(awaited) and len(tokens) <= MOST_AHEAD
            return ()
        read = tuple(token for item in tokens if (token := read_token(item)) is not None)
        self._trusted = len(read) == len(self._items)
        self._items, self._text = [], ""
        return read if self._trusted else ()


def _span(
    spellings: list[bytes], answer: bytes, thinking: str | None, tool_calls: bool
) -> slice | None:
    """Which tokens spell the answer; None when there is not exactly one place for it."""
    if not answer:
        return None
    joined = b"".join(spellings)
    earliest = _end_of(thinking, joined)
    if earliest is None:
        return None
    ends = list(accumulate(map(len, spellings)))
    after = len(joined.rstrip()) - len(answer)
    before = len(joined) - len(joined.lstrip())
    if not tool_calls and after >= earliest and joined.startswith(answer, after):
        return _whole_tokens(spellings, ends, after, after + len(answer))
    if not tool_calls and not thinking and joined.startswith(answer, before):
        return _whole_tokens(spellings, ends, before, before + len(answer))
    found: slice | None = None
    for place in islice(_occurrences(joined, answer, earliest), MOST_PLACES):
        span = _whole_tokens(spellings, ends, place, place + len(answer))
        if span is not None and found is not None:
            return None
        found = span or found
    return found


def _spell_nearly(spellings: list[bytes], text: str) -> bool:
    """Whether tokens spell the text but for characters that were cut into several tokens."""
    joined = b"".join(spellings).decode(errors="replace").strip()
    return "\ufffd" in joined and stands_for(joined, text.strip())


def stands_for(read: str, given: str) -> bool:
    """Whether a text is the given one but for characters that were cut into several tokens.

    A server that sends no bytes (Ollama) puts U+FFFD where a token holds a part of a character:
    one or more of them stand for as many characters, or fewer.
    """
    first, *others = re.split("\ufffd+", read)
    gaps = [len(gap) for gap in re.findall("\ufffd+", read)]
    places = {len(first)} if given.startswith(first) else set[int]()
    tried = 0
    for gap, following in zip(gaps, others, strict=True):
        tried += gap * len(places)
        if tried > MOST_TRIED:
            return False
        begins = {place + width for place in places for width in range(1, gap + 1)}
        places = {at + len(following) for at in begins if given.startswith(following, at)}
    return len(given) in places


def _spell_raw(tokens: Sequence[Mapping[str, object]], text: str) -> bool:
    """Whether tokens spell the text as they stand in a vocabulary, white space aside.

    There a space is `Ġ` and each byte a letter of its own (byte-level BPE), or a space is `▁`
    and a lone byte `<0xE2>` (SentencePiece).
    """
    joined = "".join(str(token.get("token", "")) for token in tokens)
    wanted = _without_spaces(text)
    letters = bytes(_BYTE_OF.get(letter, 0) for letter in joined)
    pieces = _LONE_BYTE.sub(lambda byte: bytes([int(byte[1], 16)]), _encoded(joined))
    readings = (letters, pieces.replace("▁".encode(), b" "))
    read = (_without_spaces(reading.decode(errors="replace")) for reading in readings)
    return wanted != "" and wanted in read


def _without_spaces(text: str) -> str:
    return "".join(text.split())


_LONE_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")


def _bytes_of_letters() -> dict[str, int]:
    """The letters that stand for bytes in byte-level BPE (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    pairs = {chr(byte): byte for byte in shown}
    return pairs | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _bytes_of_letters()


def _end_of(thinking: str | None, joined: bytes) -> int | None:
    spelled = _encoded(thinking or "")
    place = joined.find(spelled)
    return None if place < 0 else place + len(spelled)


def _occurrences(joined: bytes, answer: bytes, earliest: int) -> Iterator[int]:
    place = joined.find(answer, earliest)
    while place >= 0:
        yield place
        place = joined.find(answer, place + 1)


def _whole_tokens(spellings: list[bytes], ends: list[int], begin: int, end: int) -> slice | None:
    """The tokens between two bytes, if they hold nothing else but white space at the edges."""
    first, last = bisect_right(ends, begin), bisect_left(ends, end)
    before = spellings[first][: begin - (ends[first] - len(spellings[first]))]
    after = spellings[last][len(spellings[last]) - (ends[last] - end) :]
    return None if before.strip() or after.strip() else slice(first, last + 1)


def _objects(items: Sequence[object]) -> list[Mapping[str, object]]:
    # A dictionary of JSON is told by its type: asking whether it is a Mapping costs more.
    return [item for item in items if type(item) is dict or isinstance(item, Mapping)]


def spelling(token: Mapping[str, object]) -> bytes:
    """The bytes of a token; `token` itself cannot spell a part of a character."""
    given = token.get("bytes")
    if given and isinstance(given, list):
        try:
            return bytes(given)
        except (TypeError, ValueError):
            pass
    return str(token.get("token", "")).encode(errors="replace")


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace").strip()


def read_token(token: Mapping[str, object]) -> TokenLogprob | None:
    """A token with its value and its alternatives; None where the value is none."""
    # All of an answer come by here: what is nearly always so is asked first, without a call.
    value, text = token.get("logprob"), token.get("token")
    if type(value) is not float or not LOWEST <= value <= 0.0 or type(text) is not str:
        read = _choice(token)
        if read is None:
            return None
        text, value = read
    alternatives, top = token.get("top_logprobs"), []
    for other in alternatives if isinstance(alternatives, list) else ():
        if type(other) is dict:
            chance, word = other.get("logprob"), other.get("token")
            if type(chance) is float and LOWEST <= chance <= 0.0 and type(word) is str:
                top.append((word, chance))
                continue
        choice = _choice(other) if isinstance(other, Mapping) else None
        if choice is not None:
            top.append(choice)
    return TokenLogprob(text, value, tuple(top))


def _choice(token: Mapping[str, object]) -> tuple[str, float] | None:
    value = read_logprob(token.get("logprob"))
    return None if value is None else (str(token.get("token", "")), value)

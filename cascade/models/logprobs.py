"""Log-probabilities of the answer's tokens, and of its tool calls, out of what a provider sends.

Servers send values that are no log-probabilities (vLLM's -9999, NaN, positive numbers), and put
tokens of thinking and tool calls into the list. Both would make a confident-looking number out of
something else, so what cannot be trusted is left out.

Of a tool call the tokens of its name and argument values count. Providers send those of the raw
text (`<tool_call>{"name": "search", "arguments": {"q": "Rome"}}</tool_call>`, or whatever the chat
template makes of it), most of which are quotes, braces and keys, of which a model that calls tools
at all is always sure. Name and values are looked for by their text, without a parser for each
template; where there is not exactly one place, they are missing.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

from langchain_core.messages import ToolCall

from cascade.state import TokenLogprob

LOWEST = -100.0
"""Below this a value is a placeholder: vLLM writes -9999 where it has none."""

ROUNDING = 1e-3
"""So much above 0 a value is a certain token, as the sum of its rounding."""

MOST_PLACES, MOST_TEXT = 1_000, 1_000_000
"""Places of an answer among the tokens, and characters of a text with calls, that are looked at: a
hostile reply would hold up the event loop."""

MOST_AHEAD = 256
"""Tokens of a stream that wait for their text; a character takes a few."""

Token = Mapping[str, object]
"""What a provider says of a token: `{token, logprob, bytes?, top_logprobs?}`."""

Logprobs = tuple[TokenLogprob, ...]


def read_logprob(value: object) -> float | None:
    """The value if it can be a natural log-probability, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN is in no range.
    return min(0.0, float(value)) if LOWEST <= value <= ROUNDING else None


def read_token(token: Token) -> TokenLogprob | None:
    """A token with its value and its alternatives; None where the value is none."""
    value, others = token.get("logprob"), token.get("top_logprobs")
    if type(value) is not float or not LOWEST <= value <= 0.0:  # nearly all are: no call for them
        value = read_logprob(value)
        if value is None:
            return None
    top: list[tuple[str, float]] = []
    for other in others if isinstance(others, list) else ():
        chance = other.get("logprob") if isinstance(other, dict) else None
        if type(chance) is not float or not LOWEST <= chance <= 0.0:
            chance = read_logprob(chance)
        if chance is not None:
            top.append((str(other.get("token", "")), chance))
    return TokenLogprob(str(token.get("token", "")), value, tuple(top))


def _all(tokens: Iterable[Token]) -> Logprobs | None:
    """All of them; None where there are none, or one has no value: what is left would be the
    confidence of another answer."""
    read = [read_token(token) for token in tokens]
    known = tuple(token for token in read if token is not None)
    return known if known and len(known) == len(read) else None


def _listed(items: object) -> list[Token]:
    if not isinstance(items, list | tuple):
        return []
    return [item for item in items if isinstance(item, dict)]


def _spelling(token: Token) -> bytes:
    """The bytes of a token; `token` itself cannot spell a part of a character."""
    given = token.get("bytes")
    if isinstance(given, list) and given:
        try:
            return bytes(given)
        except (TypeError, ValueError):
            pass
    return str(token.get("token", "")).encode(errors="replace")


def answer_logprobs(
    items: object, text: str, thinking: str | None = None, *, tool_calls: bool = False
) -> Logprobs | None:
    """The log-probabilities of the answer's tokens.

    Args:
        items: what the provider sent, a list of `Token`.
        text: the answer.
        thinking: the thinking that came before it.
        tool_calls: whether tool calls may stand in the list.

    Returns:
        None when there are none, when they cannot be told from other tokens, or when one of them
        has no value.
    """
    tokens = _listed(items)
    if not tokens:
        return None
    spellings = [_spelling(token) for token in tokens]
    answer = text.encode(errors="replace").strip()
    plain = not thinking and not tool_calls
    if plain and b"".join(spellings) == answer and all(spellings):
        return _all(tokens)
    found = _span(spellings, answer, thinking, tool_calls)
    if found is not None:
        return _all(tokens[found])
    return _all(tokens) if plain and _spell_nearly(spellings, text) else None


def _span(
    spellings: Sequence[bytes], answer: bytes, thinking: str | None, tool_calls: bool
) -> slice | None:
    """Which tokens spell the answer: after the thinking and, where no calls follow it, as late as
    possible. None where there is no such place, or calls leave several."""
    joined = b"".join(spellings)
    thought = (thinking or "").encode(errors="replace").strip()
    place = joined.find(thought)
    if not answer or place < 0:
        return None
    ends = list(accumulate(map(len, spellings)))
    places = _occurrences(joined, answer, place + len(thought))
    last = len(joined.rstrip()) - len(answer)
    if not tool_calls and last >= place + len(thought) and joined.startswith(answer, last):
        places = iter([last])
    spans = (_whole_tokens(spellings, ends, at, at + len(answer)) for at in places)
    found = list(islice((span for span in islice(spans, MOST_PLACES) if span is not None), 2))
    return found[0] if len(found) == 1 else None


def _occurrences(joined: bytes, answer: bytes, earliest: int) -> Iterator[int]:
    place = joined.find(answer, earliest)
    while place >= 0:
        yield place
        place = joined.find(answer, place + 1)


def _whole_tokens(
    spellings: Sequence[bytes], ends: Sequence[int], begin: int, end: int
) -> slice | None:
    """The tokens between two bytes, if they hold nothing else but white space at the edges."""
    first, last = bisect_right(ends, begin), bisect_left(ends, end)
    before = spellings[first][: begin - (ends[first] - len(spellings[first]))]
    after = spellings[last][len(spellings[last]) - (ends[last] - end) :]
    return None if before.strip() or after.strip() else slice(first, last + 1)


_RAW = str.maketrans("ĠĊ▁", " \n ")
"""White space as it is written in vocabularies (byte-level BPE, SentencePiece)."""


def _spell_nearly(spellings: Iterable[bytes], text: str) -> bool:
    """Whether tokens spell the text but for white space."""
    joined = b"".join(spellings).decode(errors="replace").translate(_RAW)
    return "".join(joined.split()) == "".join(text.split()) != ""


class Growing:
    """The log-probabilities of an answer while it arrives, as long as they spell it."""

    def __init__(self) -> None:
        self._items: list[object] = []
        self._text = ""
        self._trusted = True

    def add(self, items: object, text: str, *, plain: bool) -> Logprobs:
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
        tokens = _listed(self._items)
        spelled, awaited = b"".join(map(_spelling, tokens)), self._text.encode(errors="replace")
        if spelled != awaited or not awaited:
            self._trusted = spelled.startswith(awaited) and len(tokens) <= MOST_AHEAD
            return ()
        read = _all(tokens) or ()
        self._trusted = len(read) == len(self._items)
        self._items, self._text = [], ""
        return read if self._trusted else ()


# Tool calls

_NEAR = 80
"""Most characters between a tool's name and its arguments: room for `", "arguments": ` and for the
marks of templates, and none for a sentence in between."""

_DECODER = json.JSONDecoder(strict=False)
_PIECE = re.compile(
    r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?'
    r'|(?P<plain>[^\s{}\[\],:"]+)'
    r"|(?P<empty>\{\s*\}|\[\s*\])",
    re.DOTALL,
)
"""What valid JSON is made of, but for its punctuation."""

_Span = tuple[int, int]


def call_logprobs(
    items: object, calls: Sequence[ToolCall], thinking: str | None = None
) -> Logprobs | None:
    """The log-probabilities of the calls' names and argument values.

    A token counts where it spells a part of them, also where it spells a brace besides (`7}`).

    Args:
        items: what the provider sent, a list of `Token`.
        calls: what the answer calls.
        thinking: the thinking that came before it.

    Returns:
        None where there are no calls, where not every one of them is found in one way, or where a
        token has no value.
    """
    if not calls:
        return None
    tokens = _listed(items)
    spellings = [_spelling(token) for token in tokens]
    return _all(tokens[place] for place in _called(spellings, calls, thinking))


def written_call_logprobs(tokens: Logprobs | None, calls: Sequence[ToolCall]) -> Logprobs | None:
    """`call_logprobs` of calls that a model wrote as the text of its answer, by its tokens."""
    given = tokens or ()
    spellings = [token.token.encode(errors="replace") for token in given]
    return tuple(given[place] for place in _called(spellings, calls, None)) or None


def _called(
    spellings: Sequence[bytes], calls: Sequence[ToolCall], thinking: str | None
) -> list[int]:
    """The tokens that spell names and values of the calls, by their places."""
    text = b"".join(spellings).decode(errors="surrogateescape")
    thought = (thinking or "").strip()
    begin = text.find(thought) + len(thought)
    # Each brace may begin a call, and is tried for each call.
    if begin < len(thought) or len(text) + text.count("{") * 500 * len(calls) > MOST_TEXT:
        return []
    spans: set[_Span] = set()
    said = [(one["name"], one["args"]) for one in calls]
    for n, call in enumerate(said):
        if call in said[:n]:
            continue
        sites = list(_sites(text, begin, *call))
        if len(sites) != said.count(call):
            return []
        spans.update(span for site in sites for span in site)
    before = _bytes_before(text)
    wanted = sorted((before(first), before(last)) for first, last in spans)
    lasts = [last for _, last in wanted]
    found = []
    for place, end in enumerate(accumulate(map(len, spellings))):
        after = bisect_right(lasts, end - len(spellings[place]))  # the first that ends after it
        if after < len(wanted) and wanted[after][0] < end:
            found.append(place)
    return found


def _sites(text: str, begin: int, name: str, args: object) -> Iterator[list[_Span]]:
    """Wherever the text makes this call: its name, then its arguments as a JSON object."""
    # As the key of an object a tool's name means something else.
    named = re.compile(rf'(?<![\w-]){re.escape(name)}(?![\w-])(?!"\s*:)')
    for brace in re.finditer(r"\{", text[begin:]):
        place = begin + brace.start()
        try:
            value, end = _DECODER.raw_decode(text, place)
            if value != args:
                continue
        except (ValueError, RecursionError):
            continue
        names = list(named.finditer(text, max(begin, place - _NEAR - len(name)), place))
        if names:
            yield [names[-1].span(), *_values(text, place, end)]


def _values(text: str, begin: int, end: int) -> Iterator[_Span]:
    """The values in a JSON object that stands in a text: without quotes, where there are any."""
    for piece in _PIECE.finditer(text, begin, end):
        if piece["text"] and piece["key"] is None:
            yield piece.span("text")
        # An object without anything in it has no value.
        elif piece["key"] is None and piece.span() != (begin, end):
            yield piece.span()


def _bytes_before(text: str) -> Callable[[int], int]:
    """How many bytes stand before a place in a text."""
    if text.isascii():
        return int
    sizes = (len(character.encode(errors="surrogateescape")) for character in text)
    return [0, *accumulate(sizes)].__getitem__

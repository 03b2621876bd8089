"""Log-probabilities of the answer's tokens, and of its tool calls, out of what a provider sends.

Servers send values that are no log-probabilities (vLLM's -9999, NaN, positive numbers), and put
tokens of thinking and tool calls into the list. What cannot be trusted is missing.

Of a tool call the tokens of its name and argument values count: of quotes, braces and keys a model
that calls tools at all is always sure. They are looked for by their text, without a parser for each
chat template.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice

from langchain_core.messages import ToolCall

from cascade.state import TokenLogprob

Token = Mapping[str, object] | TokenLogprob
"""Record of a provider about a token, `{token, logprob, bytes?, top_logprobs?}`, or a read one."""

Logprobs = tuple[TokenLogprob, ...]


def read_logprob(value: object) -> float | None:
    """The value if it can be a natural log-probability, else None. Below −100 it is a placeholder
    (vLLM writes −9999); up to 0.001 above 0 it is a certain token, as the sum of its rounding."""
    if type(value) is float and -100.0 <= value <= 0.0:  # nearly all are
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN is in no range.
    return min(0.0, float(value)) if -100.0 <= value <= 1e-3 else None


def _read(token: Token) -> TokenLogprob | None:
    if isinstance(token, TokenLogprob):
        return token
    value, others = read_logprob(token.get("logprob")), token.get("top_logprobs")
    if value is None:
        return None
    top = [
        (str(other.get("token", "")), chance)
        for other in (others if isinstance(others, list) else ())
        if isinstance(other, dict) and (chance := read_logprob(other.get("logprob"))) is not None
    ]
    return TokenLogprob(str(token.get("token", "")), value, tuple(top))


def _all(tokens: Sequence[Token]) -> Logprobs | None:
    """All of them; None for none, or where one has no value: the rest is another answer's."""
    read = tuple(token for token in map(_read, tokens) if token is not None)
    return read if read and len(read) == len(tokens) else None


def _listed(items: object) -> list[Token]:
    if not isinstance(items, list | tuple):
        return []
    return [item for item in items if isinstance(item, dict | TokenLogprob)]


def _spelling(token: Token) -> bytes:
    """The bytes of a token; its text cannot spell a part of a character."""
    if isinstance(token, TokenLogprob):
        return token.token.encode(errors="replace")
    given = token.get("bytes")
    if isinstance(given, list) and given:
        try:
            return bytes(given)
        except (TypeError, ValueError):
            pass
    return str(token.get("token", "")).encode(errors="replace")


class _Spelled:
    """Tokens, the bytes that they spell, and where among these the thinking ends, which is None
    where they do not spell it."""

    def __init__(self, items: object, thinking: str | None) -> None:
        self.tokens = _listed(items)
        self.spellings = [_spelling(token) for token in self.tokens]
        self.joined, self._ends = b"".join(self.spellings), [*accumulate(map(len, self.spellings))]
        thought = (thinking or "").encode(errors="replace").strip()
        place = self.joined.find(thought)
        self.begin = None if place < 0 else place + len(thought)

    def touched(self, begin: int, end: int) -> range:
        """The tokens that have a part between two bytes."""
        return range(bisect_right(self._ends, begin), bisect_left(self._ends, end) + 1)


def answer_logprobs(
    items: object, text: str, thinking: str | None = None, *, tool_calls: bool = False
) -> Logprobs | None:
    """The log-probabilities of the answer's tokens among the `items` that a provider sent, where
    `thinking` may stand before them and `tool_calls` around; None when there are none, when they
    cannot be told from other tokens, or when one has no value."""
    spelled, answer = _Spelled(items, thinking), text.encode(errors="replace").strip()
    joined, begin = spelled.joined, spelled.begin
    if not answer or begin is None:
        return None
    # After the thinking and at the end, or at the only place.
    place = len(joined.rstrip()) - len(answer)
    if tool_calls or place < begin or not joined.startswith(answer, place):
        place = joined.find(answer, begin)
        if place < 0 or joined.find(answer, place + 1) >= 0:
            return None
    found = spelled.touched(place, place + len(answer))
    own = b"".join(spelled.spellings[found.start : found.stop])
    return _all(spelled.tokens[found.start : found.stop]) if own.strip() == answer else None


class Growing:
    """The log-probabilities of an answer while it arrives, as long as they spell it."""

    def __init__(self) -> None:
        self._waiting: list[Token] | None = []
        self._text = b""

    def add(self, items: object, text: str, *, plain: bool) -> Logprobs:
        """The tokens that are complete with a piece of text: a character may take several. After
        what is not spelled so, or no `plain` text (tool calls, thinking), there are none."""
        if self._waiting is None or not plain:
            self._waiting = None
            return ()
        self._waiting += _listed(items)
        self._text += text.encode(errors="replace")
        spelled = b"".join(map(_spelling, self._waiting))
        if spelled != self._text or not spelled:
            # A character takes a few tokens.
            if not spelled.startswith(self._text) or len(self._waiting) > 256:
                self._waiting = None
            return ()
        read, self._text = _all(self._waiting), b""
        self._waiting = None if read is None else []
        return read or ()


# Tool calls

_PIECE = re.compile(
    r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?'
    r'|(?P<plain>[^\s{}\[\],:"]+)'
    r"|(?P<empty>\{\s*\}|\[\s*\])",
    re.DOTALL,
)
"""Parts of valid JSON, but for its punctuation."""


def call_logprobs(
    items: object, calls: Sequence[ToolCall], thinking: str | None = None
) -> Logprobs | None:
    """The log-probabilities of the calls' names and argument values, as in `answer_logprobs`, of
    which the tokens may be read already; of tokens that spell a part of them, also where they spell
    a brace besides (`7}`)."""
    spelled, places = _Spelled(items if calls else (), thinking), set[int]()
    begin = spelled.begin
    for call in calls:
        if begin is None or len(spelled.joined) > 1_000_000:  # lest it hold up the loop
            return None
        spans, begin = _site(spelled.joined, begin, call["name"], call["args"])
        places.update(place for span in spans for place in spelled.touched(*span))
    return None if begin is None else _all([spelled.tokens[place] for place in sorted(places)])


def _site(
    joined: bytes, begin: int, name: str, args: object
) -> tuple[Sequence[tuple[int, int]], int | None]:
    """The first place where a text makes a call: name and values, and its end; None for none."""
    text = joined.decode("latin-1")  # one character for each byte
    # As the key of an object a tool's name means something else.
    written = re.escape(name.encode().decode("latin-1"))
    named = re.compile(rf'(?<![\w-]){written}(?![\w-])(?!"\s*:)')
    for brace in islice(re.compile(r"\{").finditer(text, begin), 100):
        place = brace.start()
        try:
            _, end = json.JSONDecoder(strict=False).raw_decode(text, place)
            if json.loads(joined[place:end], strict=False) != args:
                continue
        except (ValueError, RecursionError):
            continue
        # Room for `", "arguments": ` and for the marks of templates, and none for a sentence.
        names = list(named.finditer(text, max(begin, place - 80 - len(name)), place))
        if names:
            return [names[-1].span(), *_values(text, place, end)], end
    return (), None


def _values(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The values in a JSON object that stands in a text: without quotes, where there are any."""
    for piece in _PIECE.finditer(text, begin, end):
        if piece["text"] and piece["key"] is None:
            yield piece.span("text")
        # An object without anything in it has no value.
        elif piece["key"] is None and piece.span() != (begin, end):
            yield piece.span()

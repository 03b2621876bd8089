"""Log-probabilities of the answer's tokens, and of its tool calls, out of what a provider sends.

Servers send values that are no log-probabilities (vLLM's -9999, NaN, positive numbers), and put
tokens of thinking and tool calls into the list. What cannot be trusted is missing.

Of a tool call the tokens of its name and argument values count: of quotes, braces and keys a model
that calls tools at all is always sure. They are looked for by their text.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import Any

from langchain_core.messages import ToolCall

from cascade.state import TokenLogprob

Logprobs = tuple[TokenLogprob, ...]


def read_logprob(value: object) -> float | None:
    """The value if it can be a natural log-probability, else None. Below −100 it is a placeholder
    (vLLM writes −9999); up to 0.001 above 0 it is a certain token, as the sum of its rounding."""
    if type(value) is float and -100.0 <= value <= 0.0:  # nearly all are
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return min(0.0, float(value)) if -100.0 <= value <= 1e-3 else None  # NaN is in no range


class Tokens:
    """Tokens that a provider sent: records `{token, logprob, bytes?, top_logprobs?}`.

    Log-probabilities are None where there are none, where the tokens cannot be told from others, or
    where one has no value.
    """

    def __init__(self, items: object = ()) -> None:
        self._tokens: list[TokenLogprob | None] = []
        self._joined, self._ends = bytearray(), [0]
        self._heard: int | None = 0
        self._text = b""
        self.add(items)

    def add(self, items: object) -> None:
        """Take in more of them."""
        for item in items if isinstance(items, list | tuple) else ():
            if not isinstance(item, dict):
                continue
            text, given, token = str(item.get("token", "")), item.get("bytes"), None
            try:  # the text cannot spell a part of a character
                spelling = bytes(given) if isinstance(given, list) else b""
            except (TypeError, ValueError):
                spelling = b""
            if (value := read_logprob(item.get("logprob"))) is not None:
                others = item.get("top_logprobs")
                top = [
                    (str(other.get("token", "")), chance)
                    for other in (others if isinstance(others, list) else ())
                    if isinstance(other, dict)
                    and (chance := read_logprob(other.get("logprob"))) is not None
                ]
                token = TokenLogprob(text, value, tuple(top))
            self._joined += spelling or text.encode(errors="replace")
            self._ends.append(len(self._joined))
            self._tokens.append(token)

    def completed(self, text: str) -> Logprobs:
        """The tokens that are complete with a piece of a stream: a character may take several.
        After what they do not spell there are none."""
        if self._heard is None:
            return ()
        spelled, end = self._joined[self._ends[self._heard] :], len(self._tokens)
        self._text += text.encode(errors="replace")
        if spelled != self._text or not spelled:
            # A character takes a few tokens.
            if not spelled.startswith(self._text) or end - self._heard > 256:
                self._heard = None
            return ()
        read, self._text = self._all(range(self._heard, end)), b""
        self._heard = None if read is None else end
        return read or ()

    def of_answer(
        self, text: str, thinking: str | None = None, *, tool_calls: bool = False
    ) -> Logprobs | None:
        """Log-probabilities of the answer's tokens, after the `thinking` and among `tool_calls`."""
        answer, begin = text.encode(errors="replace").strip(), self._after(thinking)
        if not answer or begin is None:
            return None
        # After the thinking and at the end, or at the only place.
        joined, place = self._joined, len(self._joined.rstrip()) - len(answer)
        if tool_calls or place < begin or not joined.startswith(answer, place):
            place = joined.find(answer, begin)
            if place < 0 or joined.find(answer, place + 1) >= 0:
                return None
        found = self._touched(place, place + len(answer))
        own = joined[self._ends[found.start] : self._ends[found.stop]]
        return self._all(found) if own.strip() == answer else None

    def of_calls(self, calls: Sequence[ToolCall], thinking: str | None = None) -> Logprobs | None:
        """The log-probabilities of the calls' names and argument values: of tokens that spell a
        part of them, also where they spell a brace besides (`7}`)."""
        begin, places = self._after(thinking), set[int]()
        for call in calls:
            if begin is None or len(self._joined) > 1_000_000:  # lest it hold up the loop
                return None
            spans, begin = _site(self._joined, begin, call["name"], call["args"])
            places.update(place for span in spans for place in self._touched(*span))
        return None if begin is None else self._all(sorted(places))

    def _after(self, thinking: str | None) -> int | None:
        """The place where the thinking ends; None where they do not spell it."""
        thought = (thinking or "").encode(errors="replace").strip()
        place = self._joined.find(thought)
        return None if place < 0 else place + len(thought)

    def _touched(self, begin: int, end: int) -> range:
        """The tokens that have a part between two bytes."""
        return range(bisect_right(self._ends, begin) - 1, bisect_left(self._ends, end))

    def _all(self, places: Sequence[int]) -> Logprobs | None:
        """Tokens at some places; None for no place, or where a token has no value."""
        read = tuple(token for p in places if (token := self._tokens[p]) is not None)
        return read if read and len(read) == len(places) else None


_PIECE = re.compile(  # a part of valid JSON, but for its punctuation
    r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?'
    r'|(?P<plain>[^\s{}\[\],:"]+)'
    r"|(?P<empty>\{\s*\}|\[\s*\])",
    re.DOTALL,
)


def _site(
    joined: bytearray, begin: int, name: str, args: object
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
            pieces = [piece for piece in _PIECE.finditer(text, place, end) if not piece["key"]]
            spans = [piece.span("text" if piece["text"] else 0) for piece in pieces]
            # An object without anything in it has no value.
            return [names[-1].span(), *(span for span in spans if span != (place, end))], end
    return (), None


def to_openai(token: TokenLogprob, alternatives: int | None = None) -> dict[str, Any]:
    """A token in OpenAI's form, with so many alternatives, or with all."""
    forms = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}
        for text, logprob in ((token.token, token.logprob), *token.top[:alternatives])
    ]
    return {**forms[0], "top_logprobs": forms[1:]}

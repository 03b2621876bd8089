"""Where tool calls stand among the tokens of an answer: their names and argument values.

Providers that send log-probabilities of tool calls (llama.cpp, Ollama) send those of the raw text:
`<tool_call>{"name": "search", "arguments": {"q": "Rome"}}</tool_call>`, or whatever the model's
template makes of it. Most of these tokens are quotes, braces and keys, which a model that calls
tools at all is always sure of. What it decided are the name and the values, and these are looked
for by their text. What is not found, or found in more than one way, is missing.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from langchain_core.messages import ToolCall

from cascade.models.logprobs import all_of, read_token, spelling, stands_for
from cascade.state import TokenLogprob

NEAR = 80
"""Most characters between a tool's name and its arguments: room for `", "arguments": ` and for
the marks of templates, and none for a sentence in between."""

MOST_CALLS, MOST_BRACES, MOST_TEXT = 100, 10_000, 1_000_000
"""Calls, places at which one may begin, and characters that are searched for them: no model makes
an answer with more, and looking for them would hold up everybody else."""

_DECODER = json.JSONDecoder(strict=False)
_PIECE = re.compile(
    r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?'
    r'|(?P<plain>[^\s{}\[\],:"]+)'
    r"|(?P<empty>\{\s*\}|\[\s*\])",
    re.DOTALL,
)
"""What valid JSON is made of, but for its punctuation."""

Span = tuple[int, int]
"""Where something begins, and where it has ended."""


def call_logprobs(
    items: object, calls: Sequence[ToolCall], *, thinking: str | None = None
) -> tuple[TokenLogprob, ...] | None:
    """The log-probabilities of the calls' names and argument values.

    A token counts where it spells a part of them; quotes, braces and keys do not. A token that
    spells both (`7}`) counts.

    Args:
        items: what the provider sent, a list of `{token, logprob, bytes?, top_logprobs?}`.
        calls: what the answer calls.
        thinking: the thinking that came before it.

    Returns:
        None where there are no calls, where not every one of them is found in one way, or where a
        token has no value.
    """
    if not calls or not isinstance(items, Sequence) or isinstance(items, str):
        return None
    tokens = [item for item in items if isinstance(item, Mapping)]
    found = _tokens_of([spelling(token) for token in tokens], calls, thinking)
    return all_of(read_token(tokens[place]) for place in found)


def call_tokens(
    tokens: Sequence[TokenLogprob] | None, calls: Sequence[ToolCall]
) -> tuple[TokenLogprob, ...] | None:
    """`call_logprobs` for calls that a model wrote as the text of its answer.

    Args:
        tokens: of that text.
        calls: what was read in it.
    """
    given = tokens or ()
    found = _tokens_of([token.token.encode(errors="replace") for token in given], calls, None)
    return tuple(given[place] for place in found) or None


def _tokens_of(
    spellings: Sequence[bytes], calls: Sequence[ToolCall], thinking: str | None
) -> list[int]:
    """The tokens that spell names and values of the calls, by their places."""
    text = b"".join(spellings).decode(errors="surrogateescape")
    thought = (thinking or "").strip()
    begin = text.find(thought)
    if begin < 0 or not 0 < len(calls) <= MOST_CALLS:
        return []
    if len(text) > MOST_TEXT or text.count("{") > MOST_BRACES:
        return []
    spans: set[Span] = set()
    for call, times in _counted(calls):
        sites = list(_sites(text, begin + len(thought), call))
        if len(sites) != times:
            return []
        spans.update(span for site in sites for span in site)
    before = _bytes_before(text)
    wanted = sorted((before(first), before(last)) for first, last in spans)
    lasts = [last for _, last in wanted]
    ends = accumulate(len(spelled) for spelled in spellings)
    found = []
    for place, (end, spelled) in enumerate(zip(ends, spellings, strict=True)):
        after = bisect_right(lasts, end - len(spelled))  # the first that ends after it begins
        if after < len(wanted) and wanted[after][0] < end:
            found.append(place)
    return found


def _counted(calls: Sequence[ToolCall]) -> list[tuple[ToolCall, int]]:
    """Each call once, with how often it is made."""
    said = [(call["name"], call["args"]) for call in calls]
    firsts = [place for place, call in enumerate(said) if call not in said[:place]]
    return [(calls[place], said.count(said[place])) for place in firsts]


def _sites(text: str, begin: int, call: ToolCall) -> Iterator[list[Span]]:
    """Wherever the text makes this call: its name, then its arguments as a JSON object."""
    # As the key of an object a tool's name means something else.
    name = re.compile(rf'(?<![\w-]){re.escape(call["name"])}(?![\w-])(?!"\s*:)')
    for brace in re.finditer(r"\{", text[begin:]):
        place = begin + brace.start()
        try:
            value, end = _DECODER.raw_decode(text, place)
            if not _same(value, call["args"]):
                continue
        except (ValueError, RecursionError):
            continue
        before = max(begin, place - NEAR - len(call["name"]))
        named = list(name.finditer(text, before, place))
        if named:
            yield [named[-1].span(), *_values(text, place, end)]


def _values(text: str, begin: int, end: int) -> Iterator[Span]:
    """The values in a JSON object that stands in a text: without quotes, where there are any."""
    for piece in _PIECE.finditer(text, begin, end):
        if piece["key"] is not None:
            continue
        if piece["text"]:
            yield piece.span("text")
        elif piece.span() != (begin, end):  # an object without anything in it has no value
            yield piece.span()


def _same(read: object, given: object) -> bool:
    """Whether a value that was read is the given one.

    A server that sends no bytes puts U+FFFD where a token holds a part of a character.
    """
    if isinstance(read, Mapping) and isinstance(given, Mapping):
        return read.keys() == given.keys() and all(_same(read[key], given[key]) for key in read)
    if isinstance(read, list) and isinstance(given, list):
        return len(read) == len(given) and all(map(_same, read, given))
    if isinstance(read, str) and isinstance(given, str) and "\ufffd" in read:
        return stands_for(read, given)
    return isinstance(read, bool) == isinstance(given, bool) and read == given


def _bytes_before(text: str) -> Callable[[int], int]:
    """How many bytes stand before a place in a text."""
    if text.isascii():
        return int
    sizes = (len(character.encode(errors="surrogateescape")) for character in text)
    return [0, *accumulate(sizes)].__getitem__

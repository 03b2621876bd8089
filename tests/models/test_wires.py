"""Whatever a server sends is read or refused with ValueError: no other exception gets out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cascade.models import ollama_wire, openai_wire
from cascade.state import Completion
from tests.servers import replies

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
CALLS = [{"id": "c", "index": 0, "function": {"name": "f", "arguments": '{"a": 1}'}}]
TOKENS = [{"token": "Paris", "logprob": -0.5, "bytes": [80], "top_logprobs": [{"token": "x"}]}]
OPENAI = replies.openai_body(
    "Paris",
    logprobs=TOKENS,
    tool_calls=CALLS,
    reasoning_content="hm",
    usage={"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 1}},
)
OPENAI["timings"] = {"prompt_ms": 1.5, "predicted_ms": 2.5}
OLLAMA = replies.ollama_body(
    "Paris",
    logprobs=TOKENS,
    thinking="hm",
    tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path] + [deeper for key, part in inside for deeper in places(part, (*path, key))]


def spoiled(body: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    body = copy.deepcopy(body)
    part = body
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = junk
    return body


def read_or_refuse(read: Callable[[Any], Completion], body: Any) -> None:
    try:
        completion = read(body)
    except ValueError:
        return
    assert isinstance(completion.text, str)
    assert isinstance(completion.model, str)
    assert all(token.logprob <= 0 for token in completion.logprobs or ())


def read_openai(body: Any) -> Completion:
    answer = openai_wire.Answer()
    answer.add(body)
    return answer.completion(asked_for="m")


def read_ollama(body: Any) -> Completion:
    answer = ollama_wire.Answer()
    answer.add(body)
    return answer.completion(asked_for="m")


@given(st.sampled_from(places(OPENAI)), JUNK)
def test_a_spoiled_openai_reply(path: tuple[Any, ...], junk: Any) -> None:
    read_or_refuse(read_openai, spoiled(OPENAI, path, junk))


@given(st.sampled_from(places(OLLAMA)), JUNK)
def test_a_spoiled_ollama_reply(path: tuple[Any, ...], junk: Any) -> None:
    read_or_refuse(read_ollama, spoiled(OLLAMA, path, junk))


def test_the_whole_replies_are_read() -> None:
    assert read_openai(OPENAI).busy_ms == 4
    assert read_openai(OPENAI).tool_calls[0]["args"] == {"a": 1}
    assert read_ollama(OLLAMA).tool_calls[0]["args"] == {"a": 1}


def test_a_refusal_is_the_answer() -> None:
    assert read_openai(replies.openai_body(None, refusal="No.")).text == "No."

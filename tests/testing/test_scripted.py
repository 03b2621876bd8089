"""The fakes that users get."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cascade.errors import RateLimitError, RealRequestForbiddenError
from cascade.models.base import guard
from cascade.models.openai import OpenAIModel
from cascade.state import TokenLogprob, Usage
from cascade.testing import ScriptedModel, forbid_real_requests, reply
from cascade.testing.scripted import split_tokens
from tests.models.asking import ask, ask_in_pieces


async def test_answers_in_order_and_the_last_one_again() -> None:
    model = ScriptedModel(["one", "two"])
    assert [(await ask(model)).text for _ in range(3)] == ["one", "two", "two"]


async def test_answers_by_question() -> None:
    model = ScriptedModel({"a?": "A", "b?": reply("B", input_tokens=3)})
    assert (await ask(model, "b?")).usage.input_tokens == 3
    assert (await ask(model, "a?")).text == "A"
    with pytest.raises(LookupError, match=r"no answer for 'c\?'"):
        await ask(model, "c?")
    with pytest.raises(LookupError, match="no answers"):
        await ask(ScriptedModel([]))


async def test_failures_come_first() -> None:
    slow = RateLimitError("slow", model="m")
    model = ScriptedModel(["one"], failures=[slow, slow])
    for _ in range(2):
        with pytest.raises(RateLimitError):
            await ask(model)
    assert (await ask(model)).text == "one"
    assert len(model.requests) == 3


async def test_logprobs_come_only_when_promised_and_asked_for() -> None:
    model = ScriptedModel(["a b"], logprobs=0.5)
    assert model.returns_logprobs
    assert (await ask(model)).logprobs is None
    found = (await ask(model, logprobs=True)).logprobs
    assert found == (TokenLogprob("a", math.log(0.5)), TokenLogprob(" b", math.log(0.5)))
    silent = ScriptedModel(["a b"], logprobs=0.5, returns_logprobs=False)
    assert (await ask(silent, logprobs=True)).logprobs is None


def test_logprobs_are_promised_when_an_answer_has_them() -> None:
    assert ScriptedModel({"q": reply("x", probability=0.5)}).returns_logprobs
    assert ScriptedModel([reply("x", probability=0.5)]).returns_logprobs
    assert not ScriptedModel([reply("x"), "y"]).returns_logprobs
    assert not ScriptedModel(lambda _: "x").returns_logprobs


async def test_usage_of_texts() -> None:
    assert (await ask(ScriptedModel(["a b c"]))).usage == Usage(input_tokens=10, output_tokens=3)
    given = Usage(input_tokens=1, output_tokens=1)
    assert (await ask(ScriptedModel(["a b c"], usage=given))).usage == given


async def test_a_stream_in_pieces() -> None:
    pieces, answer = await ask_in_pieces(ScriptedModel([" to be or\nnot "]))
    assert len(pieces) == 4
    assert "".join(pieces) == " to be or\nnot "
    assert answer is not None
    assert answer.text == " to be or\nnot "


@pytest.mark.parametrize("text", ["", " ", "a", "a b ", "\n a\n\nb "])
def test_tokens_put_together_are_the_text(text: str) -> None:
    assert "".join(split_tokens(text)) == text


def test_a_reply_with_everything() -> None:
    top = [("True", 0.9), ("False", 0.1)]
    how: Any = {"probability": [0.9, 0.5], "input_tokens": None, "output_tokens": 7, "top": top}
    call = {"name": "f", "args": {}, "id": "1", "type": "tool_call"}
    answer = reply("True enough", tool_calls=[call], **how)
    assert (answer.usage, answer.finish_reason) == (Usage(output_tokens=7), "tool_calls")
    assert answer.logprobs is not None
    first, second = answer.logprobs
    assert first.top == (("True", math.log(0.9)), ("False", math.log(0.1)))
    assert second == TokenLogprob(" enough", math.log(0.5))


async def test_a_reply_that_calls_tools_has_the_tokens_of_its_calls() -> None:
    args = {"q": "cheap flights", "n": 3, "empty": ""}
    call = {"name": "search", "args": args, "id": "1", "type": "tool_call"}
    probabilities = [0.9, 0.5, 0.4, 0.8, 0.7]
    answer = reply("", tool_calls=[call], call_probability=probabilities)
    assert answer.call_logprobs is not None
    tokens = [token.token for token in answer.call_logprobs]
    assert tokens == ["search", "cheap", " flights", "3", ""]
    model = ScriptedModel([answer])
    assert model.returns_logprobs
    assert (await ask(model)).call_logprobs is None
    assert (await ask(model, logprobs=True)).call_logprobs == answer.call_logprobs


@pytest.mark.parametrize("probability", [0.0, 1.1, -1, [0.5], [0.5, 0.5, 0.5]])
def test_impossible_probabilities(probability: float | list[float]) -> None:
    with pytest.raises(ValueError, match="probabilit"):
        reply("two words", probability=probability)


async def test_real_requests_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)
    model = OpenAIModel("m", base_url="http://127.0.0.1:9/v1")
    with forbid_real_requests():
        for asking in (ask, ask_in_pieces):
            with pytest.raises(RealRequestForbiddenError, match="ScriptedModel"):
                await asking(model)
        assert (await ask(ScriptedModel("ok"))).text == "ok"
    assert not guard.forbidden
    outer = forbid_real_requests()
    with forbid_real_requests():
        pass
    assert guard.forbidden, "the inner block does not undo the outer call"
    outer()
    assert not guard.forbidden

"""The fakes that users get."""

import math
from typing import Any

import pytest

from cascade.errors import RateLimitError, RealRequestForbiddenError
from cascade.models.base import guard
from cascade.models.openai import OpenAIModel
from cascade.state import TokenLogprob, Usage
from cascade.testing import ScriptedModel, forbid_real_requests, reply
from tests.models.asking import ask, ask_in_pieces

CALL = {"name": "search", "args": {"q": "cheap flights", "n": 3, "empty": ""}, "id": "1"}


async def test_answers_and_failures_in_order_and_the_last_one_again() -> None:
    slow = RateLimitError("slow", model="m")
    model = ScriptedModel([slow, "one", "two"])
    with pytest.raises(RateLimitError):
        await ask(model)
    assert [(await ask(model)).text for _ in range(3)] == ["one", "two", "two"]
    assert len(model.requests) == 4


async def test_answers_by_question() -> None:
    model = ScriptedModel({"a?": "A", "b?": reply("B", input_tokens=3)})
    assert (await ask(model, "b?")).usage.input_tokens == 3
    assert (await ask(model, "a?")).usage == Usage(input_tokens=10, output_tokens=1)
    with pytest.raises(LookupError, match=r"no answer for 'c\?'"):
        await ask(model, "c?")
    with pytest.raises(LookupError, match="no answers"):
        await ask(ScriptedModel([]))


async def test_logprobs_come_only_when_promised_and_asked_for() -> None:
    model = ScriptedModel(["a b"], logprobs=0.5)
    assert (await ask(model)).logprobs is None
    answer = await ask(model, logprobs=True)
    assert answer.logprobs == (TokenLogprob("a", math.log(0.5)), TokenLogprob(" b", math.log(0.5)))
    silent = ScriptedModel(["a b"], logprobs=0.5, returns_logprobs=False)
    assert (await ask(silent, logprobs=True)).logprobs is None
    assert ScriptedModel({"q": reply("x", probability=0.5)}).returns_logprobs
    assert not ScriptedModel([reply("x"), "y"]).returns_logprobs
    assert not ScriptedModel(lambda _: "x").returns_logprobs


@pytest.mark.parametrize(
    ("text", "n"), [("", 0), (" ", 1), ("a", 1), (" to be or\nnot ", 4), ("\n a\n\nb ", 2)]
)
@pytest.mark.parametrize("probability", [None, 0.5])
async def test_a_stream_in_pieces(text: str, n: int, probability: float | None) -> None:
    model = ScriptedModel([text], logprobs=probability)
    pieces, answer = await ask_in_pieces(model, logprobs=True)
    assert len(pieces) == n
    assert "".join(pieces) == answer.text == text


async def test_a_reply_with_everything() -> None:
    how: Any = {"probability": [0.9, 0.5], "input_tokens": None, "output_tokens": 7}
    how |= {"tool_calls": [CALL], "call_probability": [0.9, 0.5, 0.4, 0.8, 0.7]}
    answer = reply("True enough", **how)
    assert (answer.usage, answer.finish_reason) == (Usage(output_tokens=7), "tool_calls")
    assert answer.logprobs is not None
    assert answer.logprobs[1] == TokenLogprob(" enough", math.log(0.5))
    assert answer.call_logprobs is not None
    named = [token.token for token in answer.call_logprobs]
    assert named == ["search", "cheap", " flights", "3", ""]
    model = ScriptedModel([answer])
    assert (await ask(model)).call_logprobs is None
    assert (await ask(model, logprobs=True)).call_logprobs == answer.call_logprobs


@pytest.mark.parametrize("probability", [0.0, 1.1, [0.5], [0.5, 0.5, 0.5]])
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
        with forbid_real_requests():
            pass
        assert guard.forbidden, "the inner block does not undo the outer one"
    assert not guard.forbidden

"""Four failures that were measured in the closest peer's LangChain wrapper, as tests that pass
here.

The peer takes length and punctuation for quality, reads no usage, shows the rejected draft of a
stream together with the second answer, and falls over structured output.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from cascade import Cascade, Price, Tier
from cascade.integrations.chat_model import CascadeChatModel
from cascade.testing import ScriptedModel, reply

QUESTION = "What is the capital of Australia?"
FLUENT_WRONG = (
    "The capital of Australia is Sydney, which is its largest city and widely known for its "
    "opera house, its harbour and its beaches."
)
SHORT_RIGHT = "Canberra."
LARGE = "The capital of Australia is Canberra."


def chat(draft: Any, large: Any = LARGE) -> CascadeChatModel:
    price = Price(input=1, output=4)
    small = Tier(ScriptedModel([draft]), price=price)
    return Cascade(small, Tier(ScriptedModel([large]), price=price)).as_chat_model()


def test_a_fluent_wrong_draft_is_escalated_and_a_short_right_one_accepted() -> None:
    """What counts is how sure the model was of its words, not how many they are."""
    unsure = chat(reply(FLUENT_WRONG, probability=0.5)).invoke(QUESTION)
    assert (unsure.text, unsure.response_metadata["tier"]) == (LARGE, "large")
    sure = chat(reply(SHORT_RIGHT, probability=0.97)).invoke(QUESTION)
    assert (sure.text, sure.response_metadata["tier"]) == (SHORT_RIGHT, "small")


@pytest.mark.parametrize("words", [1, 50])
def test_confidence_does_not_grow_with_length(words: int) -> None:
    said = chat(reply("word " * words, probability=0.5)).invoke(QUESTION).response_metadata
    assert said["confidence"] == pytest.approx(0.5)


def test_usage_is_read_and_unknown_usage_is_not_free() -> None:
    message = chat(reply("Sydney", probability=0.3)).invoke(QUESTION)
    assert isinstance(message, AIMessage)
    assert message.usage_metadata is not None
    assert message.usage_metadata["total_tokens"] == 10 + 1 + 10 + 6
    assert message.response_metadata["cost_usd"] == pytest.approx((10 + 4 + 10 + 24) * 1e-6)
    silent = chat(reply("Sydney", probability=0.3, input_tokens=None)).invoke(QUESTION)
    assert silent.response_metadata["cost_usd"] is None
    assert silent.response_metadata["cost_basis"] == "unknown"
    assert silent.response_metadata["unknown_usage"] == 1


async def test_a_stream_shows_one_answer_and_no_rejected_draft() -> None:
    model = chat(reply("bad draft", probability=0.3))
    chunks = [chunk async for chunk in model.astream(QUESTION)]
    assert "".join(chunk.text for chunk in chunks) == LARGE
    assert chunks[-1].response_metadata["reason"] == "uncalibrated score 0.300 < 0.800"


class Capital(BaseModel):
    """A capital."""

    city: str


@pytest.mark.parametrize("probability", [0.3, 0.97])
def test_structured_output_works_whoever_answers(probability: float) -> None:
    draft = reply('{"city": "Canberra"}', probability=probability)
    model = chat(draft, '{"city": "Canberra"}')
    assert model.with_structured_output(Capital).invoke(QUESTION) == Capital(city="Canberra")

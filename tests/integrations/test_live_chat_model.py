"""The chat model with the embedded model as its small one, live."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, Field

from cascade import Cascade, Tier
from cascade._portal import run_sync
from cascade.errors import ModelNotFoundError
from cascade.integrations.chat_model import CascadeChatModel
from cascade.models.llamacpp import find_weights
from cascade.policies import ThresholdPolicy
from cascade.testing import ScriptedModel

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live


@pytest.fixture
def chat() -> Iterator[CascadeChatModel]:
    small = Tier("llamacpp:smollm2-135m", max_tokens=40, temperature=0)
    cascade = Cascade(small, ScriptedModel(["the large one"]), policy=ThresholdPolicy(0.0))
    yield cascade.as_chat_model()
    run_sync(cascade.aclose())


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12)


def population(city: str) -> int:
    """How many people live in a city."""
    return len(city)


def test_a_schema_holds_the_embedded_model_and_its_confidence_is_free(
    chat: CascadeChatModel,
) -> None:
    read = chat.with_structured_output(City, include_raw=True).invoke("Name a city in France.")
    assert isinstance(read["parsed"], City)
    said = read["raw"].response_metadata
    assert 0 < said["confidence"] < 1
    assert said["tiers"]["small"]["calls"] == 1


def test_tools_leave_the_embedded_models_answers_a_confidence(chat: CascadeChatModel) -> None:
    message = chat.bind_tools([population]).invoke("Say hello.")
    assert message.response_metadata["tier"] == "small"
    assert message.usage_metadata is not None
    if not message.tool_calls:
        assert message.response_metadata["tiers"]["small"]["calls"] == 1


def test_its_answer_streams_after_the_decision(chat: CascadeChatModel) -> None:
    chunks = list(chat.stream("What is the capital of France?"))
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks).strip()

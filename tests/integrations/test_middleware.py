"""A cascade in the middleware of an agent with a model of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from cascade import Cascade, Price
from cascade.errors import ConfigurationError
from cascade.integrations.middleware import CascadeMiddleware
from cascade.testing import ScriptedModel, reply

ASKED: Any = {"messages": [("human", "What is the capital of Australia?")]}


def own() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("Canberra")] * 9))


def small(p: float) -> ScriptedModel:
    return ScriptedModel([reply("Sydney", probability=p)])


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize(("p", "tier"), [(0.95, "small"), (0.3, "large")])
async def test_the_small_model_drafts_for_the_agents_own(how: str, p: float, tier: str) -> None:
    middleware = CascadeMiddleware(small(p), large_price=Price(input=1, output=2))
    agent: Any = create_agent(own(), middleware=[middleware])
    state = agent.invoke(ASKED) if how == "invoke" else await agent.ainvoke(ASKED)
    said = state["messages"][-1].response_metadata
    assert (said["tier"], state["messages"][-1].text) == (
        tier,
        "Sydney" if tier == "small" else "Canberra",
    )
    await middleware.aclose()


def test_one_model_has_one_cascade() -> None:
    middleware, model = CascadeMiddleware(small(0.9)), own()
    assert middleware.chat_model(model) is middleware.chat_model(model)
    assert middleware.chat_model(own()) is not middleware.chat_model(model)


def test_an_agent_of_a_cascade_needs_no_other_one() -> None:
    cascade = Cascade(small(0.95), ScriptedModel("large"))
    with pytest.raises(ConfigurationError, match="is a cascade already"):
        CascadeMiddleware(small(0.9)).chat_model(cascade.as_chat_model())


LACKS = """
import sys
sys.modules["{package}"] = None
from cascade.errors import MissingDependencyError
try:
    import cascade.integrations.{module}
except MissingDependencyError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("middleware", "langchain.agents.middleware", "langchain"),
        ("opentelemetry", "opentelemetry", "otel"),
        ("prometheus", "prometheus_client", "prometheus"),
    ],
)
def test_a_missing_package_is_named(module: str, package: str, extra: str) -> None:
    code = LACKS.format(module=module, package=package)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert f"pip install 'agent-cascade[{extra}]'" in done.stdout

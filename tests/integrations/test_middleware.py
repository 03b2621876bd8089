"""A cascade in the middleware of an agent with a model of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from langchain.agents.middleware import ModelRequest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from cascade.integrations.middleware import CascadeMiddleware
from cascade.testing import ScriptedModel, reply


def own() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("Canberra")] * 9))


def small(p: float) -> ScriptedModel:
    return ScriptedModel([reply("Sydney", probability=p)])


def test_one_model_has_one_cascade() -> None:
    middleware, model = CascadeMiddleware(small(0.9)), own()

    def asked(large: Any) -> Any:
        request = ModelRequest(model=large, messages=[])
        return middleware.wrap_model_call(request, lambda given: given.model.cascade)

    assert asked(model) is asked(model)
    assert asked(own()) is not asked(model)


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
    assert f"in a clone, pip install '.[{extra}]'" in done.stdout

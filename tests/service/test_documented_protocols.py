"""The OpenAPI document says of the protocols what they take, what they give, and what may fail."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cascade.service import ServiceConfig, create_app

ASKING = ("/v1/chat/completions", "/v1/responses", "/api/chat", "/api/generate")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    tier = {"model": "openai:small", "base_url": "http://127.0.0.1:1/v1"}
    config = {"cascades": {"support": {"tiers": [tier]}}, "auth": False}
    return create_app(ServiceConfig.model_validate(config)).openapi()


@pytest.mark.parametrize("path", ASKING)
def test_what_a_request_may_say_is_there(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    headers = {each["name"] for each in operation["parameters"] if each["in"] == "header"}
    assert {"X-Cascade-Deadline", "X-Cascade-Max-Harm", "X-Request-Id", "traceparent"} <= headers
    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][body.rpartition("/")[2]]
    assert "cascade" in schema["properties"]
    assert "model" in schema["required"]


@pytest.mark.parametrize("path", ASKING)
def test_both_forms_of_an_answer_and_all_errors_are_there(
    document: dict[str, Any], path: str
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert len(responses["200"]["content"]) == 2
    assert set(responses) == {
        *("200", "400", "401", "402", "403", "404", "429", "500", "502", "503", "504"),
        "default",
    }
    form = "OllamaError" if path.startswith("/api") else "ErrorReply"
    shown = {str(responses[status]["content"]) for status in responses if status != "200"}
    assert len(shown) == 1
    assert form in shown.pop()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    found = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert found <= schemas.keys()
    assert {"ChatRequest", "ResponseRequest", "OllamaChatRequest", "CascadeReport"} <= found


def test_no_route_of_a_protocol_promises_an_error_that_it_does_not_give(
    document: dict[str, Any],
) -> None:
    for path, operations in document["paths"].items():
        if path.startswith(("/v1/", "/api/")):
            for operation in operations.values():
                assert "422" not in operation["responses"], path

"""schemathesis before a gateway: what it is told, and what came of it.

These documents are tried: the published one, with everything that a client may send and get wrong,
the routes of keys apart from it; bodies that are wrong, which have to be refused;
with requests that make sense, which have to be answered; and one of the page, which publishes none.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from cascade.service.page import files, login, play, routes
from tests.servers import replies

SEED = 7
EXAMPLES = int(os.environ.get("CASCADE_FUZZ_EXAMPLES", "6"))
"""Most cases of each operation and phase."""
LONGEST_S = 60 * max(10, EXAMPLES)

TEXT = {"type": "string", "pattern": "[a-z]"}
MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "system"]}, "content": TEXT},
    "required": ["role", "content"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "parameters": CITY}
TOOLS = {"enum": [[{"type": "function", "function": WEATHER}]]}
WISHES = {
    "type": "object",
    "properties": {
        "price_of_error": {"type": "number", "minimum": 0.001, "maximum": 100},
        "deadline": {"type": "number", "minimum": 30, "maximum": 900},
        "local_only": {"type": "boolean"},
        "tags": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-z]{1,9}$"},
            "additionalProperties": {"type": "string", "pattern": "^[a-z]{1,9}$"},
            "maxProperties": 4,
        },
    },
    "additionalProperties": False,
}
SAMPLING = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    "stream": {"type": "boolean"},
    "tools": TOOLS,
    "cascade": WISHES,
}


def meant(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    """The schema of a request."""
    return {
        "type": "object",
        "properties": {"model": {"enum": ["support"]}, **properties},
        "required": ["model", *required],
        "additionalProperties": False,
    }


MEANT = {
    "/v1/chat/completions": meant(
        ["messages"],
        messages={"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 4},
        n={"type": "integer", "minimum": 1, "maximum": 3},
        seed={"type": "integer", "minimum": 0, "maximum": 2**31},
        max_tokens={"type": "integer", "minimum": 1, "maximum": 4096},
        logprobs={"type": "boolean"},
        stop={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 4},
        response_format={
            "enum": [
                {"type": "text"},
                {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
            ]
        },
        **SAMPLING,
    ),
    "/v1/responses": meant(
        ["input"],
        input={"anyOf": [TEXT, {"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 4}]},
        instructions=TEXT,
        store={"type": "boolean"},
        **{**SAMPLING, "tools": {"enum": [[{"type": "function", **WEATHER}]]}},
    ),
    "/api/chat": meant(
        ["messages"],
        messages={"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 4},
        options={"enum": [{"temperature": 0}, {"num_predict": 20, "seed": 3}]},
        stream={"type": "boolean"},
        tools=TOOLS,
    ),
    "/api/generate": meant(["prompt"], prompt=TEXT, system=TEXT, stream={"type": "boolean"}),
    "/api/show": meant([]),
}
"""Requests that make sense, by path."""


def steady(body: Mapping[str, Any], usual: Any) -> replies.Reply:
    """An upstream's answer to any request, also to one that it makes no sense of."""
    try:
        reply: replies.Reply = usual(body)
    except Exception:  # noqa: BLE001 - it is the gateway that is tested
        stream = body.get("stream")
        return replies.openai_stream("Well") if stream else replies.openai_reply("Well")
    return reply


def published(document: dict[str, Any]) -> dict[str, Any]:
    """The document of the gateway, whose model is one that there is: all others are 404.

    There are no deadlines in it: one that has passed is answered with 504, as it should be.
    """
    del document["paths"]["/test/ask"]
    for name, schema in document["components"]["schemas"].items():
        model = schema.get("properties", {}).get("model")
        if model and name.endswith("Request"):
            model.clear()
            model |= {"type": "string", "enum": ["support"]}
        schema.get("properties", {}).pop("deadline", None)
    _without(document, lambda parameter: parameter["name"] == "X-Cascade-Deadline")
    return document


def bodies(document: dict[str, Any]) -> dict[str, Any]:
    """The operations that have one, without headers, of which HTTP lets everybody send any."""
    kept: dict[str, Any] = deepcopy(document)
    _without(kept, lambda parameter: parameter["in"] == "header")
    for path, operations in kept["paths"].items():
        with_one = {name: one for name, one in operations.items() if "requestBody" in one}
        kept["paths"][path] = with_one
    return kept


def _without(document: dict[str, Any], unwanted: Callable[[dict[str, Any]], bool]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            kept = [one for one in operation.get("parameters", ()) if not unwanted(one)]
            operation["parameters"] = kept


def keys(document: dict[str, Any]) -> dict[str, Any]:
    """The routes of keys alone, taken out of the document: they revoke the key that is used."""
    taken = {path: document["paths"].pop(path) for path in ("/admin/keys", "/admin/keys/{key_id}")}
    return {**document, "paths": taken}


def sensible(document: dict[str, Any]) -> dict[str, Any]:
    """The same with requests that make sense, of the routes that ask a cascade."""
    paths = {}
    for path, schema in MEANT.items():
        operation = {**document["paths"][path]["post"], "parameters": []}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        paths[path] = {"post": operation}
    return {**document, "paths": paths}


def of_the_page() -> dict[str, Any]:
    """A document of the page's routes.

    Logging out would end the session that all the others need, and the page's events have no end.
    """
    found = [route for part in (routes, play, login, files) for route in part.router.routes]
    kept = [copy(route) for route in found if isinstance(route, APIRoute)]
    for route in kept:
        route.include_in_schema = route.path != "/logout"
    document = get_openapi(title="page", version="1", routes=kept)
    key = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
    content = {"application/x-www-form-urlencoded": {"schema": key}}
    document["paths"]["/login"]["post"]["requestBody"] = {"content": content}
    return document


@dataclass
class Fuzzed:
    """What came of a run."""

    cases: int
    failures: dict[str, list[str]]
    statuses: Counter[tuple[str, str, int]]
    words: str

    def of(self, path: str) -> Counter[int]:
        """The statuses of a path."""
        found: Counter[int] = Counter()
        for (_, where, status), n in self.statuses.items():
            if where == path:
                found[status] += n
        return found


async def fuzz(
    schemathesis: Path, document: Mapping[str, Any], url: str, folder: Path, *options: str
) -> Fuzzed:
    """Run schemathesis with a document against a gateway; later options go over those here."""
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs in this loop
    (folder / "document.json").write_text(json.dumps(document))
    reports = ["--report", "json,har", "--report-json-path", "report.json"]
    process = await asyncio.create_subprocess_exec(
        schemathesis,
        *("run", "document.json", "--url", url, "--no-color", "--continue-on-failure"),
        *("--max-examples", str(EXAMPLES), "--seed", str(SEED)),
        *("--generation-database", "none", "--request-timeout", "60", "--workers", "2"),
        *(*reports, "--report-har-path", "report.har", *options),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), LONGEST_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode in (0, 1), said.decode()  # 1: it has found something
    report = json.loads((folder / "report.json").read_text())
    assert report["complete"], said.decode()
    return Fuzzed(
        cases=report["test_cases"]["generated"],
        failures={one["title"]: one["operations"] for one in report["failures"]},
        statuses=_statuses(folder / "report.har"),
        words=said.decode(),
    )


def _statuses(path: Path) -> Counter[tuple[str, str, int]]:
    entries = json.loads(path.read_text())["log"]["entries"]
    return Counter(
        (one["request"]["method"], urlsplit(one["request"]["url"]).path, one["response"]["status"])
        for one in entries
    )

"""What people get wrong, what their code breaks, and what they do with a result."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cascade import Cascade, CascadeMiddleware, Price, Tier
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.result import CascadeResult
from tests.acceptance.setups import ROOT, calls_of, pair, run
from tests.acceptance.upstream import Upstream

Q = "Capital of Australia?"
LOCAL = "http://127.0.0.1:9"
Fails = Callable[[], object]


def two(**options: Any) -> Cascade:
    return Cascade(Tier("ollama:a", base_url=LOCAL), Tier("ollama:b", base_url=LOCAL), **options)


# --- what is asked, and how it is set up

SETUP, ASKED = ConfigurationError, InputError
MISTAKES: dict[str, tuple[Fails, type[Exception], str]] = {
    "no question": (lambda: two().invoke(""), ASKED, "the question is empty"),
    "blank question": (lambda: two().invoke(" \n"), ASKED, "the question is empty"),
    "no messages": (lambda: two().invoke([]), ASKED, "empty"),
    "bytes": (lambda: two().invoke(b"what"), ASKED, "decode"),  # type: ignore[arg-type]
    "another key": (lambda: two().invoke({"question": Q}), ASKED, "'messages'"),
    "a graph with another key": (
        lambda: two().graph.invoke({"question": Q}),
        ASKED,
        "question.*messages|messages.*question",
    ),
    "unknown provider": (
        lambda: Cascade("ollama:a", "opneai:gpt-5.1"),
        SETUP,
        "opneai.*openai:gpt-5.1",
    ),
    "no provider": (lambda: Cascade("ollama:a", "gpt-5.1"), SETUP, "gpt-5.1.*provider:name"),
    "no key": (lambda: Cascade("ollama:a", "openai:gpt-5.1"), SETUP, "OPENAI_API_KEY"),
    "no weights": (
        lambda: Cascade("llamacpp:/no/such.gguf", "ollama:b"),
        CascadeError,
        "/no/such.gguf",
    ),
    "negative price": (lambda: Price(input=-1, output=1), SETUP, "input.*-1"),
    "nobody answers": (lambda: two().invoke(Q), CascadeError, "127.0.0.1:9.*ollama serve"),
    "no such file": (lambda: two(calibrator="/no/such"), SETUP, "/no/such"),
    "no calibrator": (lambda: two(calibrator={}), SETUP, "calibrator"),
    "no prices": (lambda: two(price_of_error=0.05), SETUP, r"price.*Price\("),
    "two deciders": (
        lambda: two(max_harm=0.05, escalation_budget=0.2),
        SETUP,
        "max_harm.*escalation_budget",
    ),
    "one tier": (lambda: Cascade(small="ollama:a"), SETUP, "large is missing"),
    "one name": (lambda: Cascade(tiers=["ollama:a", "ollama:a"]), SETUP, "two tiers.*ollama:a"),
    "two ways": (lambda: two(tiers=["ollama:a"]), SETUP, "not both"),
    "no such option": (lambda: two(treshold=0.5), TypeError, "treshold"),
    "a temperature in words": (
        lambda: Tier("ollama:a", temperature="hot"),  # type: ignore[arg-type]
        SETUP,
        "temperature.*hot",
    ),
    "an address without its scheme": (
        lambda: Cascade(Tier("openai:a", base_url="localhost:8000", api_key="k"), "ollama:b"),
        SETUP,
        "base_url.*localhost:8000.*http",
    ),
    "an address with its path": (
        lambda: Cascade(Tier("openai:a", base_url="box:8000/v1", api_key="k"), "ollama:b"),
        SETUP,
        "Write 'http://box:8000/v1'",
    ),
    "an empty address": (lambda: Tier("openai:a", base_url=""), SETUP, "base_url=''.*leave it out"),
    "a key that is none": (lambda: Tier("openai:a", api_key=5), SETUP, "api_key"),  # type: ignore[arg-type]
    "options that have no names": (
        lambda: Tier("ollama:a", options=5),  # type: ignore[arg-type]
        SETUP,
        "options=5.*names and values",
    ),
    "a truth in words": (
        lambda: Tier("ollama:a", local="no"),  # type: ignore[arg-type]
        SETUP,
        "local='no'.*True, False or None",
    ),
    "a slot by its name": (
        lambda: two(middleware=[type("Mine", (CascadeMiddleware,), {"slot": "guards"})()]),
        SETUP,
        "Mine.slot='guards'.*Slot.GUARDS",
    ),
    "the state of a graph around": (lambda: two().read({"messages": []}), ASKED, "holds no run"),
}


@pytest.mark.parametrize(("fails", "kind", "says"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_wrong_is_said(fails: Fails, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=f"(?s){says}"):
        fails()


# --- functions of the user's that fail


def broken(*_: Any) -> Any:
    raise OSError("the disk is full")


async def broken_later(*_: Any) -> Any:
    raise OSError("the disk is full")


@pytest.mark.parametrize("how", ["ainvoke", "graph"])
@pytest.mark.parametrize(
    "options",
    [{"verifier": broken}, {"verifier": broken_later}, {"signals": ["logprobs", broken]}],
    ids=["verifier", "async verifier", "second signal"],
)
async def test_a_users_function_that_fails_loses_no_paid_draft(
    upstream: Upstream, options: Any, how: str
) -> None:
    made, found = pair(upstream, **options), None
    try:
        if how == "ainvoke":
            found = await made.ainvoke(Q)
        else:
            state = await made.graph.ainvoke({"messages": [("human", Q)]})
            assert state["messages"][-1].text == f"large: {Q}"
    except CascadeError as error:
        found = error
    assert found is None or calls_of(found)[0] == ("draft", "ok")
    if isinstance(found, CascadeError):
        assert "disk is full" in str(found)
    elif found is not None:
        assert found.tier == "large"
        assert "disk is full" in found.decision.reason


async def test_a_verifier_that_gives_no_verdict_is_told_so(upstream: Upstream) -> None:
    with pytest.raises(CascadeError, match="perhaps") as caught:
        await pair(upstream, verifier=lambda _q, _a: "perhaps").ainvoke(Q)
    assert calls_of(caught.value) == [("draft", "ok")]


# --- what becomes of a result


async def test_a_result_is_what_the_contract_says(upstream: Upstream) -> None:
    result = await pair(upstream, 0.3).ainvoke([("system", "Be short."), ("human", Q)])
    assert (result.answer, result.tier, result.escalated) == (f"large: {Q}", "large", True)
    assert result.message.text == result.answer
    assert result.message.usage_metadata is not None
    assert (result.confidence, result.calibrated) == (pytest.approx(0.3), False)
    assert (result.decision.action, result.decision.threshold) == ("escalate", 0.8)
    assert result.degraded is False
    assert {"draft", "verify", "expert"} <= result.ledger.by_node().keys()
    assert "expert" in result.ledger.table()


@pytest.mark.parametrize("p", [0.95, 0.3])
@pytest.mark.parametrize("how", ["dump", "fastapi"])
async def test_a_result_is_written_as_json(upstream: Upstream, how: str, p: float) -> None:
    result: Any = await pair(upstream, p).ainvoke(Q)
    if how == "dump":
        document = json.loads(json.dumps(result.model_dump(mode="json")))
    else:
        app = FastAPI()

        @app.get("/")
        def answer() -> CascadeResult:
            return result  # type: ignore[no-any-return]

        document = TestClient(app).get("/").raise_for_status().json()
    for name in ("answer", "tier", "escalated", "confidence", "calibrated", "degraded"):
        assert document[name] == getattr(result, name)
    assert document["decision"]["reason"] == result.decision.reason
    assert "draft" in json.dumps(document["ledger"])


async def test_a_result_is_equal_after_pickling(upstream: Upstream) -> None:
    one, another = [await pair(upstream, 0.3).ainvoke(Q) for _ in range(2)]
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != another


# --- imports


@pytest.mark.parametrize("statement", ["import cascade", "from cascade import Cascade"])
def test_importing_reads_no_environment_and_loads_nothing_heavy(statement: str) -> None:
    code = """
import os, sys

class Env(type(os.environ)):
    def __getitem__(self, name):
        if name.startswith(("OPENAI", "OLLAMA", "CASCADE", "ANTHROPIC")):
            raise SystemExit(f"{name} is read")
        return super().__getitem__(name)

os.environ.__class__ = Env
exec(sys.argv[1])
print(sorted({"torch", "langgraph", "openai", "numpy", "sqlalchemy"} & set(sys.modules)))
"""
    assert run(code, statement) == "[]"


def test_the_package_under_test_is_the_one_of_this_repository() -> None:
    assert Path(__file__).parents[2] == ROOT

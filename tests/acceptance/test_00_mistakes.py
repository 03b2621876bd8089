"""What people get wrong, what their code breaks, and what they do with a result."""

from __future__ import annotations

import gc
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cascade import Cascade, CascadeMiddleware, LedgerStore, Price, Tier
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.ledger.store import open_store
from cascade.middleware import Breaker, Deadline, Sticky, ToolRisks
from cascade.result import CascadeResult
from tests.acceptance.setups import ROOT, calls_of, pair
from tests.acceptance.upstream import Upstream

Q = "Capital of Australia?"
LOCAL = "http://127.0.0.1:9"
Fails = Callable[[], object]


def two(**options: Any) -> Cascade:
    return Cascade(Tier("ollama:a", base_url=LOCAL), Tier("ollama:b", base_url=LOCAL), **options)


def ask(question: Any = Q, *config: Any, **settings: Any) -> Fails:
    return lambda: two().invoke(question, *config, **settings)


def make(**options: Any) -> Fails:
    return lambda: two(**options)


def tier(model: str = "ollama:a", **options: Any) -> Fails:
    return lambda: Cascade(Tier(model, api_key=options.pop("api_key", "k"), **options), "ollama:b")


class Later(LedgerStore):
    """A store whose function is asynchronous by mistake."""

    async def append(self, entries: Any, tags: Any = None) -> None:
        raise AssertionError


def mine(**has: Any) -> list[Any]:
    """A middleware that is written wrongly."""
    return [type("Mine", (CascadeMiddleware,), has)()]


SYNC, ASYNC = (lambda self, *given: None), CascadeMiddleware.before_run
NAN = float("nan")
SEARCH = [{"type": "web_search"}]

# --- what is asked

ASKED: list[tuple[Fails, str]] = [
    (ask(""), "the question is empty"),
    (ask(" \n"), "the question is empty"),
    (ask([]), "empty"),
    (ask(b"what"), "decode"),
    (ask({"question": Q}), "'messages'"),
    (lambda: two().graph.invoke({"question": Q}), "question.*messages|messages.*question"),
    (lambda: two().read({"messages": []}), "holds no run"),
]
SET_UP: list[tuple[Fails, str]] = [
    (ask(temprature=1), "temprature=1"),
    (ask(temperature="hot"), "temperature='hot'"),
    (lambda: two().graph.invoke({"messages": Q, "settings": {"theme": 1}}), "theme=1.*tags"),
    (lambda: two().graph.invoke({"messages": Q, "settings": "dark"}), "settings='dark'"),
    (ask(deadline=0), "deadline=0"),
    (ask(local_only="z"), "^local_only='z'"),
    (ask(deadline=NAN), "deadline=nan: "),
    (ask(tools=1), "tools=1: give a list"),
    (ask(Q, "x"), "config='x'"),
    (lambda: two().batch(["?"], max_concurrency="3"), "max_concurrency='3'"),
    # models and tiers
    (lambda: Cascade("ollama:a", "opneai:gpt-5.1"), "opneai.*openai:gpt-5.1"),
    (lambda: Cascade("ollama:a", "gpt-5.1"), "gpt-5.1.*provider:name"),
    (lambda: Cascade("ollama:a", "openai:gpt-5.1"), "OPENAI_API_KEY"),
    (lambda: Cascade(small="ollama:a"), "large is missing"),
    (lambda: Cascade(tiers=["ollama:a", "ollama:a"]), "two tiers.*ollama:a"),
    (lambda: Cascade(tiers=None), "tiers=None: give a list"),
    (lambda: Cascade(tiers=b""), "tiers=b'': give a list"),
    (make(tiers=["ollama:a"]), "not both"),
    (tier(temperature="hot"), "temperature.*hot"),
    (tier(max_tokens=NAN), r"Tier\(max_tokens=nan"),
    (tier("openai:a", base_url="localhost:8000"), "base_url.*localhost:8000.*http"),
    (tier("openai:a", base_url="box:8000/v1"), "Write 'http://box:8000/v1'"),
    (tier("openai:a", base_url=""), "base_url=''.*leave it out"),
    (tier("openai:a", api_key=5), "api_key"),
    (tier(options=5), "options=5.*names and values"),
    (tier(local="no"), "local='no'.*True, False or None"),
    (lambda: Price(input=-1, output=1), "input.*-1"),
    # how it decides
    (make(threshold="high"), "threshold='high': give a number"),
    (make(threshold=0.5, price_of_error=1), "threshold and price_of_error"),
    (make(max_harm=0.05, escalation_budget=0.2), "max_harm.*escalation_budget"),
    (make(price_of_error=0.05), r"price.*Price\("),
    (make(calibrator="/no/such"), "/no/such"),
    (make(calibrator={}), "calibrator={}"),
    (make(verifier="yes"), "verifier='yes'"),
    (make(verifier=lambda answer: True), r"verifier takes \(answer\): write it as"),
    (make(verifier=CascadeMiddleware), r"verifier takes \(\)"),
    (lambda: Cascade(two(), "ollama:b"), "as_chat_model"),
    # the rest
    (make(deadline=-1), "deadline=-1"),
    (make(deadline=1, middleware=[Deadline(2)]), "both given"),
    (make(middleware=["cache"]), "middleware='cache'"),
    (make(middleware=b""), "middleware=b'': give a list"),
    (make(signals=b""), "signals=b'': give a list"),
    (make(middleware=mine(slot="guards")), "Mine.slot='guards'.*Slot.GUARDS"),
    (make(middleware=mine(before_run=SYNC)), "Mine.before_run: write it as `async def before_run`"),
    (make(middleware=mine(aclose=SYNC)), "Mine.aclose: write it as `async def aclose`"),
    (make(middleware=mine(check=ASYNC)), "Mine.check: write it as `def check`"),
    (make(middleware=mine(wrap_decision=ASYNC)), "wrap_decision: write it as `def wrap_decision`"),
    (make(audit_rate=0.1), "audits need ledger"),
    (make(ledger="here"), "ledger='here' is no store"),
    (make(ledger=Later()), "append of Later is async"),
    (make(name=""), "name=''"),
    (make(tools=SEARCH), "one provider's own"),
    (make(response_format="yes"), "response_format='yes'"),
    (make(response_format=make_dataclass("Odd", [("call", Callable)])), "Odd.*Callable"),
    (lambda: open_store(None), "None is no address"),
    (lambda: Breaker(open_s=0), r"Breaker\(open_s=0\): give a number above 0"),
    (lambda: ToolRisks({"delete": "dangerous"}), "delete.*dangerous.*irreversible"),
    *((lambda kind=kind: kind("x"), "'x'") for kind in (Breaker, Deadline, Sticky, ToolRisks)),
]
OTHERS: list[tuple[Fails, str]] = [
    (lambda: Cascade("llamacpp:/no/such.gguf", "ollama:b"), "/no/such.gguf"),
    (ask(), "127.0.0.1:9.*ollama serve"),
]


@pytest.fixture(scope="module")
def _only_what_is_new_is_collected() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other tests have left is no mistake of these
        gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_only_what_is_new_is_collected")
@pytest.mark.filterwarnings("error")  # nothing is left unclosed
@pytest.mark.parametrize(
    ("kind", "fails", "says"),
    [
        *((InputError, *each) for each in ASKED),
        *((ConfigurationError, *each) for each in SET_UP),
        *((CascadeError, *each) for each in OTHERS),
        (TypeError, make(treshold=0.5), "treshold"),
    ],
)
def test_what_is_wrong_is_said(kind: type[Exception], fails: Fails, says: str) -> None:
    with pytest.raises(kind, match=f"(?s){says}"):
        fails()
    gc.collect()


# --- functions of the user's that fail


def broken(*_: Any) -> Any:
    raise OSError("the disk is full")


async def broken_later(*_: Any) -> Any:
    raise OSError("the disk is full")


@pytest.mark.parametrize("how", ["ainvoke", "graph"])
@pytest.mark.parametrize(
    "options", [{"verifier": broken}, {"verifier": broken_later}, {"signals": ["logprobs", broken]}]
)
async def test_a_users_function_that_fails_loses_no_paid_draft(
    upstream: Upstream, options: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = pair(upstream, **options)
    if how == "graph":
        state = await made.graph.ainvoke({"messages": [("human", Q)]})
        assert state["messages"][-1].text == f"large: {Q}"
    else:
        result = await made.ainvoke(Q)
        assert (result.tier, calls_of(result)[0]) == ("large", ("draft", "ok"))
        assert "raised OSError" in result.decision.reason
    assert "disk is full" in caplog.text  # its words may quote an answer, and stay in the log


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
async def test_a_result_is_written_as_json_and_equal_after_pickling(
    upstream: Upstream, p: float
) -> None:
    result, another = [await pair(upstream, p).ainvoke(Q) for _ in range(2)]
    app = FastAPI()

    @app.get("/")
    def answer() -> CascadeResult:
        return result

    dumped = json.loads(json.dumps(result.model_dump(mode="json")))
    for document in (dumped, TestClient(app).get("/").raise_for_status().json()):
        for name in ("answer", "tier", "escalated", "confidence", "calibrated", "degraded"):
            assert document[name] == getattr(result, name)
        assert document["decision"]["reason"] == result.decision.reason
        assert "draft" in json.dumps(document["ledger"])
    assert pickle.loads(pickle.dumps(result)) == result != another


def test_the_package_under_test_is_the_one_of_this_repository() -> None:
    assert Path(__file__).parents[2] == ROOT

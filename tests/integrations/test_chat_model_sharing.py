"""What calls with different tools share, what a calibration covers, what can be written down."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.messages import ToolCall
from langchain_core.runnables import ConfigurableField

from cascade import Cascade, Price, Tier
from cascade._variants import Variants
from cascade.agents import Task
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.errors import ConfigurationError
from cascade.integrations.chat_model import CascadeChatModel
from cascade.ledger import MemoryLedger
from cascade.policies import ThresholdPolicy
from cascade.questions import to_task
from cascade.setup import task_hash
from cascade.state import Certificate
from cascade.testing import ScriptedModel, reply
from tests.confidence.drafts import drafts, made

pytestmark = pytest.mark.filterwarnings(
    "ignore:The function `load:langchain_core._api.beta_decorator.LangChainBetaWarning"
)
WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "title": "word"}


def lookup(word: str) -> str:
    """Look a word up."""
    return word


def sure(request: Any) -> Any:
    del request
    return reply('{"word": "a"}', probability=0.97)


def pair() -> tuple[ScriptedModel, ScriptedModel]:
    return (
        ScriptedModel(sure, name="small", returns_logprobs=True),
        ScriptedModel(['{"word": "b"}'], name="large"),
    )


@lru_cache
def fitted() -> Calibration:
    """Of the free signal."""
    return made(drafts(300), (("logprobs", 0),))


def calibrated(*certificates: Certificate) -> Calibration:
    """Made for the two models without tools."""
    small, _ = pair()
    tier = Tier(small).open("small")
    return fitted().model_copy(
        update={
            "small": ModelIdentity(name="scripted:small"),
            "large": ModelIdentity(name="scripted:large"),
            "task_hash": task_hash(Task(), tier),
            "certificates": certificates,
        }
    )


# --- variants


def test_calls_with_the_same_tools_share_one_graph() -> None:
    model = Cascade(*pair()).as_chat_model()
    for _ in range(3):
        model.bind_tools([lookup]).invoke("?")
        model.invoke("?")
        model.invoke("?", temperature=0.5)
    assert len(model.cascade._variants) == 2
    task = to_task([lookup])
    assert model.cascade.with_task(task) is model.cascade.with_task(to_task([lookup]))
    assert model.cascade.with_task(Task()) is model.cascade


def test_a_variant_shares_all_but_the_task() -> None:
    store = MemoryLedger()
    cascade = Cascade(*pair(), ledger=store)
    other = cascade.with_task(Task(schema=WORD))
    assert other.tiers is cascade.tiers
    assert other.policy is cascade.policy
    assert other.with_task(Task(schema=WORD)) is other
    assert other.invoke("?").answer == '{"word": "a"}'
    assert {entry.node for entry in store.entries} == {"draft", "self_check", "verify"}
    assert cascade.task == Task()


def test_variants_of_an_app_that_makes_tools_for_every_request_are_forgotten() -> None:
    made_of: list[int] = []
    variants: Variants[int, int] = Variants(lambda key: made_of.append(key) or key, kept=2)
    for key in (1, 2, 1, 3, 1, 2):
        assert variants[key] == key
    assert made_of == [1, 2, 3, 2]
    assert len(variants) == 2


def test_a_variant_is_made_once_by_threads_that_ask_at_the_same_time() -> None:
    cascade = Cascade(*pair())
    got: list[Cascade] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        got.append(cascade.with_task(Task(schema=WORD)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in got}) == 1


# --- calibrations


def test_a_calibration_holds_for_the_task_that_it_was_made_for_and_no_other() -> None:
    model = Cascade(*pair(), calibrator=calibrated()).as_chat_model()
    usual = model.invoke("?").response_metadata
    assert usual["calibrated"] is True
    other = model.invoke("?", response_format=WORD).response_metadata
    assert (other["calibrated"], other["tier"]) == (False, "small")
    assert other["reason"] == "uncalibrated score 0.970 ≥ 0.800"
    assert model.invoke("!").response_metadata["calibrated"] is True


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.3},
        {"max_tokens": 9},
        {"stop": ["\n"]},
        {"top_p": 0.5},
        {"tools": [lookup]},
        {"tools": [lookup], "tool_choice": "auto"},
    ],
)
def test_whatever_changes_how_the_small_model_answers_is_another_task(changed: Any) -> None:
    model = Cascade(*pair(), calibrator=calibrated()).as_chat_model()
    assert model.invoke("?", **changed).response_metadata["calibrated"] is False


def test_how_long_a_call_may_take_changes_nothing() -> None:
    model = Cascade(*pair(), calibrator=calibrated()).as_chat_model()
    assert model.invoke("?", timeout=30, seed=1).response_metadata["calibrated"] is True


def test_a_call_with_the_settings_of_the_tier_is_the_same_task() -> None:
    small, large = pair()
    tier = Tier(small, temperature=0.0, max_tokens=9)
    made_so = calibrated().model_copy(update={"task_hash": task_hash(Task(), tier.open("small"))})
    model = Cascade(tier, large, calibrator=made_so).as_chat_model()
    assert model.invoke("?", temperature=0, max_tokens=9).response_metadata["calibrated"] is True


def test_what_a_certificate_does_not_cover_is_escalated() -> None:
    promise = Certificate(
        threshold=0.1, max_harm=0.2, delta=0.1, n=100, errors=1, coverage=0.9, bound=0.2
    )
    model = Cascade(*pair(), calibrator=calibrated(promise), max_harm=0.2).as_chat_model()
    assert model.invoke("?").response_metadata["tier"] == "small"
    other = model.invoke("?", response_format=WORD).response_metadata
    assert (other["tier"], other["calibrated"]) == ("large", False)
    assert other["reason"] == "the certificate covers calibrated confidences only"


def test_a_budgets_threshold_is_not_held_against_a_raw_score() -> None:
    """It is a quantile of calibrated confidences; the documented one for raw scores holds."""
    cascade = Cascade(*pair(), calibrator=calibrated(), escalation_budget=0.999)
    assert isinstance(cascade.policy, ThresholdPolicy)
    assert cascade.policy.threshold != ThresholdPolicy().threshold
    other = cascade.as_chat_model().invoke("?", response_format=WORD).response_metadata
    assert other["reason"] == "uncalibrated score 0.970 ≥ 0.800"


def test_a_check_of_a_tool_call_replaces_the_signals_of_the_calibration() -> None:
    """Log-probs of a tool call are none of the answer's; the calibrated signal is not there."""
    small, large = pair()
    call = ToolCall(name="lookup", args={"word": "a"}, id="1", type="tool_call")
    small._answers = [reply("", tool_calls=[call]), reply("True", probability=0.9)]
    model = Cascade(small, large, calibrator=calibrated()).as_chat_model()
    said = model.bind_tools([lookup]).invoke("?").response_metadata
    assert (said["tier"], said["calibrated"]) == ("small", False)
    assert said["tiers"]["small"]["calls"] == 2


# --- written down


SMALL = "ollama:qwen2.5:3b"
ALLOWED: Any = {"allowed_objects": [CascadeChatModel], "valid_namespaces": ["cascade"]}


def test_a_cascade_of_model_strings_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    large = Tier(
        "openai:gpt-5.1",
        price=Price(input="1.25", output=10),
        api_key="sk-given",
        base_url="https://example.com/v1",
        max_tokens=50,
    )
    cascade = Cascade(SMALL, large, price_of_error=0.05, deadline=9.0, tags={"app": "a"})
    model = cascade.as_chat_model(temperature=0.0, stop=["\n"])
    text = dumps(model)
    assert "sk-" not in text
    again: Any = loads(text, **ALLOWED)
    assert again.asdict() == model.asdict()
    assert (again.temperature, again.stop) == (0.0, ["\n"])
    tier = again.cascade.tiers[1]
    assert (tier.settings.base_url, tier.settings.max_tokens) == ("https://example.com/v1", 50)
    assert tier.settings.price.input == Decimal("1.25")
    assert repr(again.cascade) == repr(cascade)
    assert again.cascade.options["tags"] == {"app": "a"}
    assert dumps(again).replace('"api_key": ', "") != text  # the key's name, and nothing else
    assert json.loads(dumps(again))["kwargs"]["small"] == SMALL


def test_retries_and_keys_of_a_model_that_was_made_here_come_back_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = CascadeChatModel(
        tiers=[SMALL, "openai:a", "openai:b"], max_retries=5, api_key="sk-secret"
    )
    written = dumpd(model)
    assert "sk-secret" not in str(written)
    again: Any = load(written, secrets_map={"OPENAI_API_KEY": "sk-other"}, **ALLOWED)
    assert again.cascade.doors.settings.attempts == 6
    assert [tier.name for tier in again.cascade.tiers] == [SMALL, "openai:a", "openai:b"]
    assert again.api_key.get_secret_value() == "sk-other"


@pytest.mark.parametrize(
    "cascade",
    [
        lambda: Cascade(*pair()),
        lambda: Cascade(SMALL, "ollama:b", policy=ThresholdPolicy(0.5)),
        lambda: Cascade(SMALL, "ollama:b", ledger=MemoryLedger()),
        lambda: Cascade(SMALL, Tier("openai:a", base_url="https://me:secret@a.com", api_key="k")),
        lambda: Cascade(SMALL, Tier("ollama:b", options={"headers": {"x": "secret"}})),
    ],
    ids=["models", "policy", "store", "password", "headers"],
)
def test_a_cascade_that_cannot_be_written_down_says_so(cascade: Any) -> None:
    written = dumpd(cascade().as_chat_model())
    assert written["type"] == "not_implemented"
    assert "secret" not in str(written)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"small": SMALL, "large": "nonsense"}, "^'nonsense' has no provider"),
        ({"small": SMALL}, "large is missing"),
        ({"small": SMALL, "large": SMALL, "temprature": 1}, "temprature: Extra inputs"),
        ({"small": SMALL, "large": SMALL, "options": {"polcy": 1}}, "Cascade has no polcy"),
        ({"small": {"model": SMALL, "pric": 1}, "large": SMALL}, "a tier has no pric"),
        ({"cascade": Cascade(*pair()), "max_retries": 7}, "max_retries cannot be given"),
        ({"cascade": Cascade(*pair()), "small": SMALL}, "small cannot be given"),
        ({"cascade": Cascade(*pair()), "api_key": "k"}, "api_key cannot be given"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(settings: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        CascadeChatModel(**settings)


def test_a_model_keeps_and_shows_no_keys() -> None:
    model = CascadeChatModel(
        small={"model": "openai:a", "api_key": "sk-secret"},
        large=Tier("openai:b", base_url="https://me:secret@example.com", api_key="sk-secret"),
    )
    assert "secret" not in f"{model!r}{model.asdict()}{dumps(model)}"
    assert model.cascade.tiers[0].settings.api_key == "sk-secret"


@pytest.mark.parametrize(
    "model",
    [
        Cascade(*pair()).as_chat_model(),
        Cascade(SMALL, "ollama:b", deadline=3.0).as_chat_model(),
        CascadeChatModel(small=SMALL, large="openai:b", api_key="sk-secret", max_retries=7),
    ],
    ids=["models", "strings", "made here"],
)
def test_fields_may_be_made_configurable(model: CascadeChatModel) -> None:
    """LangChain makes the model again, of all its fields and a new value of one of them."""
    configurable = model.configurable_fields(temperature=ConfigurableField(id="heat"))
    again, _ = configurable.prepare({"configurable": {"heat": 0.5}})  # type: ignore[attr-defined]
    assert (again.temperature, again.cascade) == (0.5, model.cascade)
    assert (again.small, again.api_key) == (model.small, model.api_key)


def test_a_cached_answer_is_that_of_the_same_cascade() -> None:
    cache = InMemoryCache()
    models = [
        Cascade(drafted, ScriptedModel("x")).as_chat_model(cache=cache)
        for drafted in (ScriptedModel(["one"]), ScriptedModel(["two"]))
    ]
    for drafted in models:
        small: Any = drafted.cascade.tiers[0].model
        large: Any = drafted.cascade.tiers[1].model
        assert drafted.invoke("?").text == "x"
        assert drafted.invoke("?").text == "x"
        assert (len(small.requests), len(large.requests)) == (2, 1)  # a draft and its check
        assert drafted.invoke("?", temperature=0.5).text == "x"
        assert len(large.requests) == 2
        assert drafted.model_copy(update={"temperature": 0.7}).invoke("?").text == "x"
        assert len(large.requests) == 3


def test_a_key_never_stands_in_an_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        CascadeChatModel(small=SMALL, large="nonsense", api_key="sk-secret")
    assert "sk-secret" not in f"{caught.value}{caught.value.__cause__}"


def test_traces_know_the_model_by_its_tiers() -> None:
    model = Cascade(*pair()).as_chat_model(temperature=0.5)
    described = model._get_ls_params(stop=["a"])
    assert described == {
        "ls_provider": "cascade",
        "ls_model_name": "scripted:small → scripted:large",
        "ls_model_type": "chat",
        "ls_temperature": 0.5,
        "ls_stop": ["a"],
    }
    assert model.asdict()["_type"] == "cascade"

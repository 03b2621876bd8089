from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, ConfigurationError, Tier
from cascade.errors import StreamInterruptedError
from cascade.kernel import Kernel
from cascade.middleware import Abort, Deadline, Retries
from cascade.policies import ThresholdPolicy
from cascade.run import CascadeRuntime, Parts, Run
from cascade.state import TokenLogprob
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers
from tests.middleware.cascades import PRICE, ask, large, pair, small

Q = "Capital of Australia?"
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def writer(*probabilities: float, **options: Any) -> ScriptedModel:
    text = " ".join(f"w{i}" for i in range(len(probabilities)))
    return ScriptedModel([reply(text, probability=probabilities)], name="small", **options)


def stopping(model: Any, max_tokens: int | None = 10, **options: Any) -> Cascade:
    tier = Tier(model, price=PRICE, max_tokens=max_tokens)
    options.setdefault("middleware", [Abort()])
    return Cascade(tier, Tier(large(), price=PRICE), **options)


async def test_white_space_before_the_answer_is_no_reason_to_stop() -> None:
    answer = reply("w0 w1", probability=1.0)
    spaced = replace(answer, text=" w0 w1", logprobs=(TokenLogprob(" ", -9.0), *answer.logprobs))
    made = stopping(ScriptedModel([spaced], name="small"), signals=["text", "logprobs"])
    draft = next(e for e in (await ask(made, Q)).ledger if e.node == "draft")
    assert draft.outcome == "ok"


async def test_an_attempt_that_begins_anew_is_heard_anew() -> None:
    class Breaking(ScriptedModel):
        async def _stream(self, request: Any) -> Any:
            first = len(self.requests) == 0
            async for chunk in super()._stream(request):
                yield chunk
                if first:  # one bad token of the first attempt; two would stop it
                    raise StreamInterruptedError("broken", model=self.name)

    bad = reply("w0 w1", probability=[0.25, 1.0])
    good = reply("v0 v1 v2", probability=[0.4, 1.0, 1.0])
    model = Breaking([bad, good], name="small")
    made = stopping(model, threshold=0.7, middleware=[Abort(), Retries(attempts=2, base_s=0.0)])
    assert (await ask(made, Q)).answer == "v0 v1 v2"


@pytest.mark.parametrize(
    "settings", [{"tools": [TOOL]}, {"extra": {"max_completion_tokens": 5}}], ids=["tools", "limit"]
)
async def test_what_a_question_brings_along_may_forbid_it(settings: Any) -> None:
    result = await ask(stopping(writer(*[0.2] * 8)), Q, **settings)
    assert [e.outcome for e in result.ledger if e.node == "draft"] == ["ok"]


async def test_a_tier_without_a_limit_is_let_alone_where_another_has_one() -> None:
    free = ScriptedModel([reply("a b", probability=0.1)], name="free")
    second = ScriptedModel([reply("c d e", probability=0.1)], name="second")
    tiers = [Tier(free), Tier(second, max_tokens=5), Tier(large())]
    result = await ask(Cascade(tiers=tiers, middleware=[Abort()]), Q)
    assert [(e.tier, e.outcome) for e in result.ledger if e.node == "draft"] == [
        ("scripted:free", "ok"),
        ("scripted:second", "cancelled"),
    ]


async def test_where_time_is_over_the_draft_is_kept_but_a_slow_tier_is_tried_in_the_end() -> None:
    slow = Deadline(30.0)
    slow._seen_s["large"] = 60.0  # the large model is known to take a minute
    made = stopping(writer(*[0.2] * 8), middleware=[Abort(), slow])
    result = await ask(made, Q)
    assert (result.tier, result.decision.once) == ("small", True)
    slow._asked_at["large"] = -100.0  # what was seen so long ago says nothing of today
    assert [(await ask(made, Q)).tier for _ in range(2)] == ["large", "large"]


def calibrated(windows: list[float], mismatch: Any = None, confidence: float = 0.9) -> Any:
    """A calibrator whose drafts of a confidence had these worst windows."""
    return SimpleNamespace(
        early=tuple((confidence, window) for window in sorted(windows)),
        mismatch=lambda messages: mismatch,
        estimate=lambda features, taken: None,
        outlook=lambda confidence, taken: (),
    )


async def draft(calibrator: Any, *probabilities: float, **parts: Any) -> Run:
    parts |= {"calibrators": {"small": calibrator}, "middleware": [Abort(0.1)]}
    kernel = Kernel(Parts(open_tiers(writer(*probabilities), large()), ThresholdPolicy(), **parts))
    run = kernel.begin([HumanMessage(Q)])
    await kernel.answer(run, CascadeRuntime(kernel))
    return run


WINDOWS = [-0.5 - i / 100 for i in range(30)]


async def test_a_stretch_that_few_acceptable_drafts_had_stops_it() -> None:
    run = await draft(calibrated(WINDOWS), *[0.4] * 20)  # ln 0.4 = −0.92
    assert "stopped after 16 tokens: the last 16 have a mean log-prob of -0.92" in run.stopped
    assert "10.00% of the drafts" in run.stopped


@pytest.mark.parametrize(
    ("calibrator", "p", "n", "parts"),
    [
        (calibrated(WINDOWS), 0.55, 20, {}),  # acceptable drafts had such a stretch too
        (calibrated(WINDOWS), 0.1, 15, {}),  # fewer tokens than a window
        (calibrated(WINDOWS, confidence=0.3), 0.1, 20, {}),  # none would be accepted
        (calibrated(WINDOWS, "another prompt"), 0.1, 20, {}),
        (calibrated(WINDOWS), 0.1, 20, {"holds": lambda settings: False}),
    ],
)
async def test_without_such_a_stretch_of_known_drafts_nothing_is_stopped(
    calibrator: Any, p: float, n: int, parts: Any
) -> None:
    assert (await draft(calibrator, *[p] * n, **parts)).stopped is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"verifier": lambda _q, _a: True}, "judges whole drafts"),
        ({"tools": [TOOL]}, "any draft may call one"),
        ({"signals": ["p_true"]}, "needs the signal logprobs"),
        ({"middleware": [Abort(0.05)]}, "needs calibrator=….*0 are known"),
        ({"max_tokens": None}, "max_tokens"),
    ],
)
def test_a_cascade_in_which_nothing_tells_when_to_stop_is_refused(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        stopping(small(), **options)


async def test_a_model_without_log_probs_and_a_calibration_on_few_drafts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="stream has log-probs"):
        pair(ScriptedModel("x", name="small"), middleware=[Abort()])
    with pytest.raises(ConfigurationError, match=r"made on 9 drafts.*5 are known"):
        await draft(calibrated(WINDOWS[:5]), 1.0)

"""Under pressure work is left out that is not the answer: what, in which order, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache
from prometheus_client import CollectorRegistry

from cascade import Cascade, MemoryLedger, Price, Shedding, Tier
from cascade.agents.shedding import Pressure, of_queue
from cascade.errors import ConfigurationError
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.models import Chunk, Model, Request
from cascade.policies import NextSignal, Situation
from cascade.resilience import Bulkhead, Resilience
from cascade.state import Completion, Decision, LedgerEntry
from cascade.testing import ScriptedModel, reply

SURE = reply("Canberra", probability=0.95)


class World:
    """A cascade whose pressure is what a test says."""

    def __init__(self, load: float = 0.0, draft: Completion = SURE, **options: Any) -> None:
        self.load, self.store = load, MemoryLedger()
        self.small = ScriptedModel(self._says(draft), name="small", returns_logprobs=True)
        self.large = ScriptedModel(["Canberra"], name="large")
        shedding = options.pop("shedding", Shedding(load=lambda: self.load))
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=100, output=100)),
            ledger=self.store,
            shedding=shedding,
            **options,
        )

    @staticmethod
    def _says(draft: Completion) -> Any:
        def answer(request: Request) -> Completion:
            return draft if len(request.messages) == 1 else reply("90")

        return answer

    async def ask(self) -> Any:
        result = await self.cascade.ainvoke("The capital of Australia?")
        await self.cascade.audits_done()
        return result

    @property
    def shed(self) -> list[tuple[str, float]]:
        """What was left out, at which pressure."""
        found = (entry.signals for entry in self.store.entries if entry.node == "shed")
        return [item for signals in found if signals for item in signals.items()]

    def entry(self, node: str) -> LedgerEntry:
        (found,) = [e for e in self.store.entries if e.node == node]
        return found


# --- the order -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "shed"),
    [
        (0.79, set()),
        (0.8, {"audit"}),
        (1.19, {"audit"}),
        (1.2, {"audit", "signal"}),
        (99.0, {"audit", "signal"}),
    ],
)
async def test_audits_go_first_and_paid_signals_last_and_the_answer_never(
    load: float, shed: set[str]
) -> None:
    world = World(load, audit_rate=1.0, signals=["logprobs", "verbalised"])
    result = await world.ask()
    assert result.answer == "Canberra"
    assert {kind for kind, _ in world.shed} == shed
    assert {pressure for _, pressure in world.shed} <= {load}


@pytest.mark.parametrize(("load", "drafts"), [(0.9, 1), (1.0, 0)])
async def test_shadow_drafts_go_between_them(load: float, drafts: int) -> None:
    world = World(load, mode="shadow")
    result = await world.ask()
    await world.cascade.aclose()
    assert result.answer == "Canberra"
    assert len(world.small.requests) == drafts
    assert [kind for kind, _ in world.shed] == ([] if drafts else ["shadow"])


async def test_without_the_option_nothing_is_left_out() -> None:
    world = World(9.0, shedding=False, audit_rate=1.0)
    await world.ask()
    assert not world.shed
    assert world.entry("verify").audit_rate == 1.0


# --- audits --------------------------------------------------------------------------------------


async def test_the_chance_that_is_written_down_is_the_one_of_the_draw() -> None:
    world = World(1.0, audit_rate=0.5)
    await world.ask()
    assert world.entry("verify").audit_rate == pytest.approx(0.05)
    assert world.entry("shed").note == (
        "under a pressure of 1.00 the chance of an audit is lowered to 0.05"
    )


async def test_with_nothing_kept_a_draft_has_no_chance_and_nobody_is_told_of_one() -> None:
    told: list[str] = []
    nothing = Shedding(load=lambda: 1.0, audits_kept=0.0)
    world = World(shedding=nothing, audit_rate=1.0)
    auditor = world.cascade._oversight.auditor
    assert auditor is not None
    auditor.on_audit.append(lambda run_id, loss: told.append(run_id))
    await world.ask()
    assert world.entry("verify").audit_rate == 0.0
    assert not told


async def test_where_nobody_audits_no_audit_is_left_out() -> None:
    world = World(9.0)
    await world.ask()
    assert not world.shed


# --- signals -------------------------------------------------------------------------------------


async def test_a_decision_without_its_paid_signal_says_so_and_holds_once() -> None:
    world = World(1.5, signals=["logprobs", "verbalised"], cache=InMemoryCache())
    result = await world.ask()
    assert result.decision.reason.endswith("; decided without verbalised, under pressure")
    assert result.decision.once
    assert len(world.small.requests) == 1
    world.load = 0.0
    assert not (await world.ask()).cached


async def test_the_only_evidence_is_never_left_out() -> None:
    world = World(9.0, signals=["verbalised"])
    result = await world.ask()
    assert result.confidence == pytest.approx(0.9)
    assert not world.shed


class AsksForMore:
    """Wants the next signal whenever there is one; else goes by what is there."""

    def decide(self, situation: Situation) -> Decision:
        seen = situation.assessment
        more = situation.next_signal is not None
        return Decision(
            action="observe" if more else "accept", reason="so", confidence=seen.confidence
        )


def wanting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the verifier offer one more signal, as it does with a calibration."""
    from cascade.agents.verifier import Verifier  # noqa: PLC0415 - only to be patched

    def offer(self: Any, tier: Any, draft: Any, assessment: Any) -> NextSignal | None:
        del self, tier, draft
        return None if "verbalised" in assessment.taken else NextSignal("verbalised", (), None)

    monkeypatch.setattr(Verifier, "_next_signal", offer)


@pytest.mark.parametrize(("load", "shed"), [(0.0, []), (1.5, ["signal"])])
async def test_a_signal_that_the_policy_asks_for_is_left_out_by_the_verifier(
    load: float, shed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(load, policy=AsksForMore())
    wanting(world, monkeypatch)
    if load:
        result = await world.ask()
        assert result.decision.reason == "so; decided without verbalised, under a pressure of 1.50"
        assert result.decision.once
    else:
        with pytest.raises(ConfigurationError, match="wants another signal; none is left"):
            await world.ask()
    assert [kind for kind, _ in world.shed] == shed


# --- what pressure is ----------------------------------------------------------------------------


def test_a_queue_is_a_pressure_above_1() -> None:
    assert [of_queue(n, 4, 0, 8) for n in (0, 2, 4)] == [0.0, 0.5, 1.0]
    assert [of_queue(4, 4, n, 8) for n in (4, 8)] == [1.5, 2.0]
    assert of_queue(4, 4, 1, 0) == 2.0


def test_the_largest_pressure_counts() -> None:
    given = Shedding(in_flight=4, slack_s=2.0, load=lambda: 0.3)
    pressure = Pressure(given, (lambda: 0.4,))
    assert pressure.now() == 0.4
    with pressure.at_work(), pressure.at_work(), pressure.at_work():
        assert pressure.now() == 0.75
        assert pressure.now(left_s=1.0) == 2.0
    assert pressure.now(left_s=8.0) == 0.4


def test_time_that_has_run_out_is_the_greatest_pressure() -> None:
    pressure = Pressure(Shedding(slack_s=1.0))
    assert pressure.now(left_s=-1.0) > 1000
    assert pressure.now(left_s=None) == 0.0


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, float("inf"), "much", None])
def test_a_pressure_that_cannot_be_had_is_logged_once_and_counts_as_none(
    wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pressure = Pressure(Shedding(load=lambda: wrong))
    assert [pressure.now(), pressure.now()] == [0.0, 0.0]
    assert len([r for r in caplog.records if "counts as none" in r.message]) == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"in_flight": 0}, r"in_flight=0\): a number above 0"),
        ({"slack_s": -1}, r"slack_s=-1\)"),
        ({"audits": float("nan")}, "a number above 0"),
        ({"signals": None}, "a number above 0"),
        ({"audits_kept": 1.1}, "a share, from 0 to 1"),
        ({"audits_kept": "0.1"}, "a share, from 0 to 1"),
        ({"audits": 2.0}, "audits are left out first and signals last"),
        ({"load": 0.5}, "a function without arguments"),
        ({"bulkheads": False}, "nothing to go by"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Shedding(**settings)


def test_what_is_no_shedding_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"shedding=0.5: give True, False or Shedding"):
        World(shedding=0.5)


def test_true_goes_by_the_bulkheads() -> None:
    world = World(shedding=True)
    assert world.cascade._pressure is not None
    assert world.cascade._pressure.shedding == Shedding()


class Held(Model):
    """Answers once it is let."""

    provider, model, local, returns_logprobs, real = "held", "held", True, True, False

    def __init__(self) -> None:
        self.go_on, self.asked = asyncio.Event(), 0

    async def _complete(self, request: Request) -> Completion:
        self.asked += 1
        await self.go_on.wait()
        return SURE

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        yield Chunk(completion=await self._complete(request))


async def _until(what: Any) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)


async def test_runs_at_work_are_counted_whichever_way_they_are_asked() -> None:
    held = Held()
    cascade = Cascade(held, ScriptedModel(["x"]), shedding=Shedding(in_flight=2))
    pressure = cascade._pressure
    assert pressure is not None
    runs = [
        asyncio.ensure_future(cascade.ainvoke("?")),
        asyncio.ensure_future(cascade.graph.ainvoke({"messages": [("user", "?")]})),  # type: ignore[arg-type]
        asyncio.ensure_future(cascade.as_chat_model().ainvoke("?")),
    ]
    await _until(lambda: held.asked == 3)
    assert (pressure.running, pressure.now()) == (3, 1.5)
    runs.pop().cancel()
    await _until(lambda: pressure.running == 2)
    held.go_on.set()
    await asyncio.gather(*runs)
    assert pressure.running == 0


async def test_calls_that_wait_for_a_place_are_pressure() -> None:
    held, store = Held(), MemoryLedger()
    bulkhead = Bulkhead(most=1, waiting=2)
    cascade = Cascade(
        held,
        Tier(ScriptedModel(["x"]), price=Price(input=1, output=1)),
        ledger=store,
        resilience=Resilience(bulkhead=bulkhead),
        shedding=True,
    )
    pressure = cascade._pressure
    assert pressure is not None
    runs = [asyncio.ensure_future(cascade.ainvoke("?")) for _ in range(2)]
    await _until(lambda: pressure.now() == 1.5)
    held.go_on.set()
    await asyncio.gather(*runs)
    assert pressure.now() == 0.0


async def test_a_variant_is_under_the_pressure_of_its_cascade() -> None:
    world = World(1.0, audit_rate=1.0)
    other = world.cascade.with_policy(price_of_error=10.0)
    await other.ainvoke("?")
    assert [kind for kind, _ in world.shed] in (["audit"], [])
    assert other._pressure is world.cascade._pressure


# --- who is told ---------------------------------------------------------------------------------


async def test_metrics_count_what_was_left_out() -> None:
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    world = World(9.0, audit_rate=1.0, signals=["logprobs", "verbalised"], observers=[metrics])
    await world.ask()
    for kind in ("audit", "signal"):
        labels = {"cascade": "cascade", "kind": kind}
        assert registry.get_sample_value("cascade_shed_total", labels) == 1

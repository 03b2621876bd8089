"""Recorded runs of agents: early stop, cascades with and without a check, and their figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade import Cascade
from cascade.errors import ConfigurationError
from cascade.evaluation.features import Pair
from cascade.evaluation.recordings import Transcript
from cascade.evaluation.trajectories import EarlyStop, check_runs, fit_early_stop, spent_until
from cascade.evaluation.verdict import Options, evaluate
from cascade.integrations.agent_tier import AgentTier, recorded_agent
from cascade.testing import ScriptedModel
from tests.cli import terminal

TOPICS = ("add the numbers of a list", "find the capital of a country", "sort the words of a text")


def step(**given: Any) -> dict[str, Any]:
    return {"action": "look", "observation": "nothing", "cost_usd": 0.001, **given}


def recording(n: int = 240, seed: int = 0, *, large: float = 0.8, cost: float = 0.01) -> list[Any]:
    """Runs of a small agent that is in trouble from its first step where it fails, and then goes on
    for long; a large one that is right independently of that."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        right, told = rng.random() < 0.5, rng.random() < 0.9
        in_trouble = told != right
        length = 8 if in_trouble else 2
        steps = [step(is_error=in_trouble, action=f"try {k * right}") for k in range(length)]
        steps.append(step(kind="submit", observation=None, action="the answer"))
        small = {"correct": float(right), "cost_usd": 0.001 * len(steps), "steps": steps}
        whole = {"correct": float(rng.random() < large), "cost_usd": cost, "steps": [step()]}
        prompt = f"{TOPICS[i % 3]}, number {i}"
        models = {"small": small, "large": whole}
        rows.append({"dataset": "made_up", "id": str(i), "prompt": prompt, "models": models})
    return rows


def pair(**given: Any) -> Pair:
    return Pair([Transcript(**row) for row in recording(**given)], "small", "large")


def test_hopeless_runs_are_given_up_and_few_successes_are_lost() -> None:
    runs, others = pair(n=400), pair(n=400, seed=1)
    stop, _ = fit_early_stop(runs, share=0.2)
    assert 0 < stop.below < 1
    after = stop.after(others.prompts, [run[:-1] for run in others.runs])
    right = others.small_correct > 0.5
    assert (after[~right] > 0).mean() > 0.5
    assert (after[right] > 0).mean() <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / right.sum())
    spent = spent_until(others, after)
    assert spent[after == 1] == pytest.approx(0.001)
    assert spent[after == 0] == pytest.approx(others.small_cost[after == 0])


def test_what_saves_nothing_is_not_stopped() -> None:
    stop, after = fit_early_stop(pair(cost=10.0), share=0.2)
    assert (stop.below, after.max()) == (0, 0)
    few, after = fit_early_stop(pair(n=15))
    assert (few.points, few.below, after.max()) == ({}, 0, 0)


def test_the_same_stop_looks_at_a_run_that_is_under_way(tmp_path: Path) -> None:
    runs = pair(n=400)
    made, after = fit_early_stop(runs, share=0.2)
    made.save(tmp_path / "stop.json")
    stop = EarlyStop.load(tmp_path / "stop.json")
    assert stop == made
    first = runs.rows[int(np.flatnonzero(after == 1)[0])]
    call: Any = {"name": "look", "args": {}, "id": "1"}
    result = ToolMessage("nothing", tool_call_id="1", status="error")
    run = [AIMessage("", tool_calls=[call]), result]
    assert stop([HumanMessage(first.prompt)], []) is None
    said = stop([HumanMessage(first.prompt)], run)
    assert said.startswith("after 1 steps its chance of success is below")
    with pytest.raises(ConfigurationError, match=r"no EarlyStop of this version .*--stop FILE"):
        EarlyStop.load(tmp_path / "none.json")


@pytest.mark.parametrize("cost", [None, 0.0])
def test_costs_of_steps_that_nobody_knows_are_shared_out_by_their_number(cost: Any) -> None:
    rows = recording(n=2)
    for row in rows:
        for each in row["models"]["small"]["steps"]:
            each["cost_usd"] = cost
    unknown = Pair([Transcript(**row) for row in rows], "small", "large")
    whole = unknown.small_cost
    lengths = [len(run) for run in unknown.runs]
    assert spent_until(unknown, np.ones(2)) == pytest.approx(whole / lengths)


def test_the_run_and_the_task_decide_where_nothing_checks_it_and_it_pays() -> None:
    found = evaluate(pair(n=500, cost=0.05), Options(repeats=1, within=0.05))
    assert (found.verdict, found.shape) == ("cascade", "gain")
    other = pair(n=500, seed=1, cost=0.05)
    unseen = evaluate(pair(n=500, cost=0.05), Options(repeats=1, within=0.05), test=other)
    assert abs(unseen.recommended.cost.value - found.recommended.cost.value) < 0.15
    assert evaluate(pair(cost=0.004, large=0.95), Options(repeats=1)).verdict == "off"


WORTH = [
    ({"large": 0.7, "cost": 0.03}, "cheaper and better"),
    ({"large": 1.0, "cost": 0.03}, "cheaper"),
    ({"large": 0.6, "cost": 0.006}, "dearer and better"),
    ({"large": 1.0, "cost": 0.005}, "off"),
    ({"large": 1.0, "cost": 0.012, "n": 40}, "unclear"),
]


@pytest.mark.parametrize(("given", "worth"), WORTH)
def test_a_check_says_which_of_the_two_the_user_gets(given: Any, worth: str) -> None:
    found = check_runs(pair(**given), Options(), share=0.01)
    assert found.worth == worth, found
    assert found.figures["gained"].value >= 0
    assert found.sentence


def test_an_early_stop_saves_where_runs_are_checked_too() -> None:
    runs = pair(n=400, cost=0.02)
    for found in (check_runs(runs, share=0.2), check_runs(runs, test=pair(seed=1), share=0.2)):
        assert found.figures["cost"].high < found.figures["whole_cost"].value
        assert found.figures["solved"].value >= found.figures["whole_solved"].value - 0.05
        assert 0 < found.stopped < 1
        assert found.lost < 0.3


def test_unknown_costs_are_said() -> None:
    rows = recording()
    for row in rows:
        del row["models"]["large"]["cost_usd"]
    with pytest.raises(ConfigurationError, match="record `cost_usd` of both agents"):
        check_runs(Pair([Transcript(**row) for row in rows], "small", "large"))


def test_recorded_agents_are_evaluated_and_calibrated(tmp_path: Path) -> None:
    """What comes of it holds for an `AgentTier` of the same name."""
    rows, path = recording(n=120, cost=0.05), tmp_path / "runs.jsonl"
    for row in rows:
        row["models"] = {f"agent:{name}": outcome for name, outcome in row["models"].items()}
    path.write_text("\n".join(map(json.dumps, rows)))
    pair = ["--small", "agent:small", "--large", "agent:large"]
    assert "runs are given up" in terminal.cascade("evaluate", path, *pair, "--checked").out
    said = terminal.cascade("evaluate", path, *pair, "--checked", "--json").out
    assert json.loads(said)["worth"] == "cheaper and better"
    assert "agent:small before agent:large" in terminal.cascade("evaluate", path, *pair).out
    planned = json.loads(terminal.cascade("plan", path, *pair, "--json").out)
    assert float(planned["large_usd"]["value"]) == pytest.approx(0.05)
    assert planned["verdict"] in ("saves", "uncertain")
    made, stop = tmp_path / "calibration.json", tmp_path / "stop.json"
    written = ["--out", made, "--stop", stop, "--signals", "trajectory"]
    terminal.cascade("calibrate", path, "--recorded", *pair, *written)

    async def answers(messages: Any) -> str:
        return "done"

    small = AgentTier(answers, name="small", stop=EarlyStop.load(stop))
    tiers = small, AgentTier(answers, name="large")
    cascade = Cascade(*tiers, signals=["trajectory"], calibrator=str(made), threshold=0.5)
    result = cascade.invoke(TOPICS[0])
    assert (result.tier, result.calibrated) == ("small", True)
    recorded = Cascade(recorded_agent("small"), ScriptedModel("x"), signals=["trajectory"])
    with pytest.raises(ConfigurationError, match="only recorded"):
        recorded.invoke(TOPICS[0])

"""Two agents of LangChain's on thirty tasks: the small model alone, the large alone, the cascade.

    python benchmarks/agent_tasks.py                     # replays the recorded models
    python benchmarks/agent_tasks.py --live MODEL.gguf   # asks them; adds to the recordings

The agents (`benchmarks/assistants`) know nothing of a cascade: only the model that they are given
differs. The small model is the embedded SmolLM2-135M-Instruct, the large one
Qwen2.5-Coder-0.5B-Instruct. Solved is what a check of the answer, and of the database or the
folder afterwards, says.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.errors import GraphRecursionError

sys.path.insert(0, str(Path(__file__).resolve().parent))

from assistants.file_assistant import file_assistant
from assistants.recordings import Asked, asked_live, recorded
from assistants.sql_assistant import sql_assistant
from assistants.tasks import TASKS, Task

from cascade import Cascade, Price, Tier
from cascade.evaluation.shares import wilson
from cascade.ledger import LedgerView, MemoryLedger

PRICES = {"small": Price(input="0.01", output="0.01"), "large": Price(input="0.10", output="0.10")}
"""Dollars per million tokens: assumed, ten times apart. Neither model has a list price."""
MAX_TOKENS = 150
RECURSION_LIMIT = 15
"""Steps of LangGraph, two for each call of the model with its tool: seven calls."""
AGENTS = {"sql": sql_assistant, "files": file_assistant}


@dataclass(frozen=True)
class Done:
    """What became of one task.

    Attributes:
        steps: calls of the agent's model.
        escalated: how many of them the large model answered after a draft.
        note: why there is no answer, where there is none.
    """

    task: Task
    solved: bool
    answer: str
    steps: int
    escalated: int
    note: str
    messages: tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """All tasks with one model."""

    name: str
    done: tuple[Done, ...]
    ledger: LedgerView

    @property
    def solved(self) -> int:
        return sum(one.solved for one in self.done)

    def figures(self) -> dict[str, Any]:
        """The row of the table."""
        steps = sum(one.steps for one in self.done)
        low, high = wilson(self.solved / len(self.done), len(self.done))
        cost, saved = self.ledger.cost_usd, self.ledger.saved_usd
        return {
            "run": self.name,
            "tasks": len(self.done),
            "solved": self.solved,
            "low": round(low, 3),
            "high": round(high, 3),
            "cost_usd": None if cost is None else f"{cost:.6f}",
            "saved_usd": None if saved is None else f"{saved:.6f}",
            "steps": steps,
            "escalated": sum(one.escalated for one in self.done),
            "calls": sum(entry.model is not None for entry in self.ledger),
            "seconds": round(sum(entry.latency_ms for entry in self.ledger) / 1000, 1),
        }


def run_task(task: Task, model: BaseChatModel) -> Done:
    """Have an agent do one task, in a folder that is thrown away."""
    state: dict[str, Any] = {"messages": []}
    note = ""
    with tempfile.TemporaryDirectory() as folder:
        place = task.prepare(Path(folder))
        agent = AGENTS[task.kind](model, str(place))
        asked = {"messages": [{"role": "user", "content": task.request}]}
        try:
            limit = {"recursion_limit": RECURSION_LIMIT}
            for now in agent.stream(asked, limit, stream_mode="values"):
                state = now  # kept, should the agent be stopped
        except GraphRecursionError:
            note = "went round in circles"
        said = state.get("structured_response")
        answer = "" if said is None else said.answer
        if said is None and not note:
            note = "ended without an answer"
        solved = said is not None and task.solved(place, answer)
    steps = [message for message in state["messages"] if isinstance(message, AIMessage)]
    escalated = sum(bool(step.response_metadata.get("escalated")) for step in steps)
    messages = tuple(state["messages"])
    return Done(task, solved, answer, len(steps), escalated, note, messages)


def run_tasks(
    name: str, cascade: Callable[[MemoryLedger], Cascade], tasks: Iterable[Task] = TASKS
) -> Run:
    """All tasks, one after the other."""
    ledger = MemoryLedger()
    model = cascade(ledger).as_chat_model()
    done = tuple(run_task(task, model) for task in tasks)
    return Run(name, done, LedgerView(ledger.entries))


def tiers(models: Asked) -> tuple[Tier, Tier]:
    """The two models with their prices."""
    small, large = (
        Tier(model, name=name, price=PRICES[name], max_tokens=MAX_TOKENS, temperature=0)
        for name, model in (("small", models.small), ("large", models.large))
    )
    return small, large


def runs(models: Asked, tasks: Sequence[Task] = TASKS) -> list[Run]:
    """The same tasks with each model alone and with the cascade."""
    small, large = tiers(models)
    made: dict[str, Callable[[MemoryLedger], Cascade]] = {
        "small alone": lambda ledger: Cascade(tiers=[small], ledger=ledger),
        "large alone": lambda ledger: Cascade(tiers=[large], ledger=ledger),
        "cascade": lambda ledger: Cascade(small, large, ledger=ledger),
    }
    return [run_tasks(name, cascade, tasks) for name, cascade in made.items()]


def show(done: Sequence[Run]) -> None:
    """The tables for people."""
    print(f"{'':<14}{'solved':>8}{'95 % interval':>16}{'cost':>12}{'steps':>7}{'escalated':>11}")
    for run in done:
        row = run.figures()
        interval = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        solved = f"{row['solved']}/{row['tasks']}"
        cost = "unknown" if row["cost_usd"] is None else f"${row['cost_usd']}"
        print(
            f"{run.name:<14}{solved:>8}{interval:>16}{cost:>12}{row['steps']:>7}"
            f"{row['escalated']:>11}  {row['calls']} calls, {row['seconds']} s, "
            f"saved {row['saved_usd']}"
        )
    print()
    for results in zip(*(run.done for run in done), strict=True):
        marks = "".join(f"{'solved' if one.solved else '-':>12}" for one in results)
        print(f"{results[0].task.kind:<6}{results[0].task.id:<22}{marks}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--live", metavar="GGUF", help="file of the large model; asks both models")
    parser.add_argument("--json", action="store_true", help="one JSON line for each run")
    parser.add_argument("--talk", action="store_true", help="print what the agents did")
    given = parser.parse_args()
    done = runs(asked_live(Path(given.live)) if given.live else recorded())
    if given.json:
        for run in done:
            print(json.dumps(run.figures()))
        return
    if given.talk:
        for run in done:
            for one in run.done:
                print(f"\n## {run.name}: {one.task.id}: {one.note or one.answer}")
                for message in one.messages:
                    message.pretty_print()
    show(done)


if __name__ == "__main__":
    main()

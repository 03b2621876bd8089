"""Several agents with cascades of their own share one ledger, and are told apart in its report."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from typer.testing import CliRunner

from cascade import Cascade, Price, Tier
from cascade.cli import app
from cascade.ledger.amounts import EXACT
from cascade.ledger.store import open_store
from cascade.report import Line, Report, make_report
from cascade.testing import ScriptedModel, reply
from tests.report.ledgers import Story

ADDED = (
    "cost_usd",
    "assumed_usd",
    "marginal_usd",
    "baseline_measured_usd",
    "baseline_estimated_usd",
    "saved_measured_usd",
    "saved_estimated_usd",
    "entries",
    "unknown",
    "input_tokens",
    "output_tokens",
)
QUESTION: Any = {"messages": [("human", "What now?")]}


def cascade(probability: float, store: Any, price: str) -> Cascade:
    small = ScriptedModel([reply("a plan", probability=probability)], name="small")
    large = ScriptedModel([reply("a better plan", output_tokens=7)], name="large")
    return Cascade(
        Tier(small, price=Price(input="0.03", output="0.07")),
        Tier(large, price=Price(input=price, output="9.7")),
        ledger=store,
    )


async def ask_all(url: str) -> None:
    """The planner is escalated, the writer is not, and one question has no agent."""
    async with open_store(url) as store:
        unsure, sure = cascade(0.3, store, "1.3"), cascade(0.95, store, "2.9")
        planner: Any = create_agent(unsure.as_chat_model(), name="planner")
        writer: Any = create_agent(sure.as_chat_model(), name="writer")
        for _ in range(2):
            await planner.ainvoke(QUESTION)
        await writer.ainvoke(QUESTION)
        await sure.ainvoke("What now?")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}"
    asyncio.run(ask_all(url))
    return url


async def reported(url: str, **options: Any) -> Report:
    async with open_store(url) as store:
        return await make_report(store, **options)


def added(lines: tuple[Line, ...], name: str) -> Decimal:
    total = Decimal(0)
    for line in lines:
        total = EXACT.add(total, Decimal(getattr(line, name)))
    return total


async def test_what_agents_saved_adds_up_to_the_total_to_the_last_decimal(ledger: str) -> None:
    report = await reported(ledger)
    agents, nodes = report.tables[-2:]
    assert (agents.by, nodes.by) == ("agent", "agent and node")
    for name in ADDED:
        total = getattr(report.total, name)
        assert added(agents.lines, name) == added(nodes.lines, name) == total
        for agent in agents.lines:
            own = tuple(line for line in nodes.lines if line.agent == agent.name)
            assert added(own, name) == getattr(agent, name)


async def test_each_agent_has_its_own_nodes_and_requests(ledger: str) -> None:
    agents, nodes = (await reported(ledger)).tables[-2:]
    assert {line.name: line.requests for line in agents.lines} == {
        "planner": 2,
        "writer": 1,
        "": 1,
    }
    assert {(line.agent, line.name) for line in nodes.lines} == {
        (agent, node)
        for agent in ("planner", "writer", "")
        for node in ("draft", "self_check", "verify", *(["expert"] if agent == "planner" else []))
    }
    saved = {line.name: line.saved_measured_usd + line.saved_estimated_usd for line in agents.lines}
    assert saved["planner"] < 0 < saved["writer"]


def said(ledger: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["report", ledger, *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_terminal_shows_agents_by_node(ledger: str) -> None:
    words = said(ledger)
    assert "by agent and node" in words
    for name in ("planner: expert", "writer: verify", "–: verify"):
        assert name in words


def test_json_has_agent_and_node_apart(ledger: str) -> None:
    tables = {table["by"]: table["lines"] for table in json.loads(said(ledger, "--json"))["tables"]}
    assert {(line["agent"], line["name"]) for line in tables["agent and node"]} >= {
        ("planner", "expert"),
        ("writer", "draft"),
    }
    assert {line["agent"] for line in tables["node"]} == {None}


def test_the_page_shows_agents_by_node(ledger: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    said(ledger, "--html", str(page))
    shown = page.read_text()
    assert "<h2>By agent and node</h2>" in shown
    assert "planner: expert" in shown


def test_they_can_be_asked_for_alone(ledger: str) -> None:
    tables = json.loads(said(ledger, "--json", "--by", "agent"))["tables"]
    assert [table["by"] for table in tables] == ["agent", "agent and node"]


async def test_a_ledger_without_agents_has_no_such_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with open_store(url) as store:
        store.append(Story().draft().accept().entries)
    assert [table.by for table in (await reported(url)).tables] == ["node", "tier", "model", "day"]
    assert (await reported(url, by=("agent",))).tables == ()


async def test_an_agents_name_is_shown_as_text(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with open_store(url, tags={"agent": "<b>\x1b[31m"}) as store:
        store.append(Story().draft().accept().entries)
    report = await reported(url)
    assert "&lt;b&gt;" in report.html()
    assert "<b>\x1b" not in report.html()
    assert "\x1b" not in report.text()

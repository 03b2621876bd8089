from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cascade.cli import app
from cascade.ledger.store import open_store
from tests.report.ledgers import Story


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real file: two teams, one of them two days ago."""
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}"
    now = datetime.now(UTC)

    async def fill(team: str, at: datetime, n: int) -> None:
        async with open_store(url, tags={"team": team}) as store:
            for i in range(n):
                story = Story(at + timedelta(seconds=i)).draft()
                if i % 3 == 0:
                    story.decide("escalate").expert()
                else:
                    story.accept(rate=0.5)
                store.append((story.audit() if i % 3 == 1 else story).entries)

    asyncio.run(fill("search", now - timedelta(days=2), 30))
    asyncio.run(fill("mail", now - timedelta(minutes=5), 12))
    return url


def test_a_report_for_a_reader(ledger: str) -> None:
    said = run(ledger).stdout
    assert said.startswith("Verdict: saves; at least $")
    assert "Verified net saving" in said
    assert "by node" in said
    assert "\x1b" not in said


def test_json_is_one_document_with_exact_amounts(ledger: str) -> None:
    document = json.loads(run(ledger, "--json").stdout, parse_constant=pytest.fail)
    assert document["requests"] == 42
    assert document["total"]["cost_usd"] == "0.3122"
    assert document["verified_usd"] == document["saving"]["saving"]["low"]
    assert [table["by"] for table in document["tables"]] == ["node", "tier", "model", "day"]


def test_periods_and_tags_select(ledger: str) -> None:
    assert json.loads(run(ledger, "--days", 1, "--json").stdout)["requests"] == 12
    assert json.loads(run(ledger, "--tag", "team=search", "--json").stdout)["requests"] == 30
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
    assert json.loads(run(ledger, "--until", yesterday, "--json").stdout)["requests"] == 30
    assert json.loads(run(ledger, "--since", yesterday, "--json").stdout)["requests"] == 12


def test_tables_by_a_tag(ledger: str) -> None:
    document = json.loads(run(ledger, "--by", "tag:team", "--json").stdout)
    [table] = document["tables"]
    assert [(line["name"], line["requests"]) for line in table["lines"]] == [
        ("search", 30),
        ("mail", 12),
    ]


def test_a_page_is_written(ledger: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run(ledger, "--html", page, "--precision", "0.1")
    assert "±10 points" in result.stdout
    assert f"written: {page}" in " ".join(result.stderr.split())
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tag", "team"], "--tag 'team': write KEY=VALUE"),
        (["--days", "1", "--since", "2026-01-01"], "give --days or --since"),
        (["--by", "team"], "by='team'"),
        (["--precision", "2"], "precision=2"),
        (["--html", "/nowhere/x.html"], "there is no folder /nowhere"),
        (["--html", "/"], "/ cannot be written"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "is empty"),
    ],
)
def test_a_wrong_use_is_named(ledger: str, arguments: list[str], message: str) -> None:
    assert message in " ".join(run(ledger, *arguments, code=2).stderr.split())


def test_a_mistyped_name_makes_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "legder.db"
    assert "there is no file" in " ".join(run(f"sqlite:///{path}", code=2).stderr.split())
    assert not path.exists()
    assert "is no address of a ledger" in " ".join(run("ledger.db", code=2).stderr.split())


def test_a_file_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = other.read_bytes()
    assert "there is no ledger in" in " ".join(run(f"sqlite:///{other}", code=2).stderr.split())
    assert other.read_bytes() == before
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    assert "is no SQLite file" in " ".join(run(f"sqlite:///{broken}", code=2).stderr.split())

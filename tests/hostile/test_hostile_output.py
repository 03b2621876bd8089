"""What others name or say, where it comes out: logs, terminals, tables, pages, metrics, traces."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

import cascade
from cascade.cli.console import PlainConsole, print_json
from cascade.integrations.logs import JsonFormatter, TextFormatter
from cascade.ledger.store import open_store
from cascade.report import make_report
from cascade.service.protocols.extension import _ascii
from cascade.state import LedgerEntry
from tests.hostile.wire import head, said, status_of
from tests.servers.fake import FakeServer
from tests.service.conftest import upstream
from tests.service.gateway import configured, gateway

__all__ = ["upstream"]

FORGED = "x\n2026-01-01 00:00:00,000 ERROR \x1b[31mall is lost\x1b[0m\x9b2J\r\u2028\u202ey"
HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def record(message: str, *values: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("cascade", logging.ERROR, "f.py", 1, message, values, None)
    vars(made).update(extra)
    return made


# Logs ---------------------------------------------------------------------------------------------


def test_a_name_forges_no_record_of_a_log_and_moves_no_cursor() -> None:
    line = TextFormatter("%(asctime)s %(levelname)s %(message)s").format(record("%s", FORGED))
    first, second = line.split("\n")
    assert first.endswith(" ERROR x")
    assert second.startswith("    2026-01-01")
    assert r"\x1b[31m" in second
    assert not set("\x1b\x9b\r\u2028\u202e") & set(line)


def test_a_traceback_is_set_in() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        made = record("it failed")
        made.exc_info = sys.exc_info()
    lines = TextFormatter("%(levelname)s %(message)s").format(made).split("\n")
    assert lines[0] == "ERROR it failed"
    assert all(line.startswith("    ") for line in lines[1:])
    assert any("ValueError" in line for line in lines)


def test_a_record_in_json_is_one_line_of_one_document() -> None:
    line = JsonFormatter().format(record("%s", FORGED, tags={FORGED: FORGED}))
    assert len(line.splitlines()) == 1
    assert not set("\x1b\x9b\u202e") & set(line)
    found = json.loads(line)
    assert (found["message"], found["tags"]) == (FORGED, {FORGED: FORGED})


async def test_what_clients_send_begins_no_line_of_the_services_log(
    upstream: FakeServer, tmp_path: Path
) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(TextFormatter("%(levelname)s %(message)s"))
    logging.getLogger("cascade").addHandler(handler)
    try:
        config = configured(upstream, tmp_path, auth=False, log={"requests": True})
        async with gateway(config) as running:
            body = {
                "model": "support",
                "messages": [{"role": "user", "content": FORGED, "name": "a\nERROR b"}],
                "cascade": {"tags": {"team\u2028ERROR a": "b\x9b2J\x85ERROR c"}},
                "user": "x\nERROR d",
            }
            answer = await running.client.post("/v1/chat/completions", json=body)
            missing = await running.client.get("/v1/models/a%0AERROR%20forged%1b[2J")

            def breaking(*_: object) -> None:
                raise RuntimeError(FORGED)

            running.service.serving = breaking  # type: ignore[assignment,method-assign]
            broken = await running.client.get("/v1/models/a%1b[2J%c2%9b2J%20forged")
    finally:
        logging.getLogger("cascade").removeHandler(handler)
    assert (answer.status_code, missing.status_code, broken.status_code) == (200, 404, 500)
    log = written.getvalue()
    assert not set("\x1b\x9b") & set(log)
    assert r"a\x1b[2J" in log
    starts = [line.split(" ")[0] for line in log.splitlines() if not line.startswith("    ")]
    assert set(starts) <= {"INFO", "WARNING", "ERROR"}
    assert not [line for line in log.splitlines() if line.startswith(("ERROR b", "ERROR forged"))]


# Terminals ----------------------------------------------------------------------------------------


def test_a_console_shows_what_acts_on_others() -> None:
    written = io.StringIO()
    console = PlainConsole(file=written, force_terminal=True, width=200, highlight=False)
    table = Table()
    table.add_column("who")
    table.add_row("a\x1b]0;title\x07b")
    console.print("[bold]x[/] \x1b[2J y")
    console.print(table)
    console.print("\x9b1m", style="red", markup=False)
    text = written.getvalue()
    assert "\x1b[1mx" in text, "its own styles work"
    for sequence in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b"):
        assert sequence not in text
    assert r"\x1b[2J" in text


def test_json_for_machines_is_the_same_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": FORGED})
    text = capsys.readouterr().out
    assert json.loads(text) == {"name": FORGED}
    assert not set("\x1b\x9b\u202e") & set(text)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
@pytest.mark.parametrize("terminal", [True, False])
def test_an_answer_acts_on_no_terminal_and_is_piped_as_it_is(
    tmp_path: Path, terminal: bool
) -> None:
    answer = "clear\x1b[2J\x1b]52;c;aGFja2Vk\x07 done"
    script = tmp_path / "ask.py"
    script.write_text(
        "import sys\n"
        "from cascade.testing import ScriptedModel\n"
        "from cascade.cli import app\n"
        "from cascade.models import registry\n"
        f"registry._BUILT_IN['fake'] = lambda asked: ScriptedModel({answer!r})\n"
        "sys.argv = ['cascade', 'ask', 'hi', '--small', 'fake:a', '--large', 'fake:b', "
        "'--no-table']\n"
        "app()\n",
        encoding="utf-8",
    )
    ours, theirs = pty.openpty()
    where = theirs if terminal else subprocess.PIPE
    done = subprocess.run(
        [sys.executable, str(script)],
        stdout=where,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(cascade.__file__).parents[1])},
    )
    os.close(theirs)
    written = os.read(ours, 65536).decode() if terminal else done.stdout.decode()
    os.close(ours)
    assert done.returncode == 0, done.stderr.decode()
    if terminal:
        assert "\x1b[2J" not in written
        assert "\x1b]52" not in written
        assert r"clear\x1b[2J" in written
    else:
        assert written == answer + "\n"


# Files --------------------------------------------------------------------------------------------

FORMULAS = ['=HYPERLINK("http://evil")', "+1+cmd|'/c calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]


async def exported(folder: Path, ending: str, name: str) -> Path:
    path = folder / f"entries{ending}"
    entry = LedgerEntry(
        run_id=name, node="draft", tier=name, model=name, note=name, latency_ms=-0.5,
        cost_usd=Decimal("-0.25"), saved_usd=Decimal("-1E-7"), basis="measured",
        cost_basis="measured", at=datetime.now(UTC),
    )  # fmt: skip
    async with open_store("memory://", tags={name: name, "team": name}) as store:
        store.append([entry])
        await store.flush()
        await store.export(path)
    return path


@pytest.mark.parametrize("name", FORMULAS)
async def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, name: str) -> None:
    path = await exported(tmp_path, ".csv", name)
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    for column, value in row.items():
        assert value[:1] not in "=+@\t\r" or not value, (column, value)
    assert row["tier"] == f"'{name}"
    assert (row["cost_usd"], row["latency_ms"]) == ("-0.25", "-0.5")
    assert Decimal(row["saved_usd"]) == Decimal("-1E-7")
    assert json.loads(row["tags"])["team"] == name


async def test_files_for_machines_hold_names_as_they_are(tmp_path: Path) -> None:
    path = await exported(tmp_path, ".jsonl", FORGED)
    (line,) = path.read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line)["tier"] == FORGED


# Pages --------------------------------------------------------------------------------------------


async def test_a_report_in_html_holds_names_as_text(tmp_path: Path) -> None:
    async with open_store("memory://", tags={"team": HTML, "agent": HTML}) as store:
        for number in range(3):
            entry = LedgerEntry(
                run_id=f"{HTML}{number}",
                node=HTML,
                tier=HTML,
                model=HTML,
                note=HTML,
                latency_ms=1.0,
                cost_usd=Decimal("0.1"),
                basis="measured",
                cost_basis="measured",
            )
            store.append([entry])
        await store.flush()
        tables = ["node", "tier", "model", "agent", "tag:team"]
        report = await make_report(store, by=tables)
    page = report.html()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_the_page_makes_no_markup_of_data() -> None:
    folder = Path(cascade.__file__).parent / "service" / "page" / "static"
    for path in folder.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                     "new Function", "javascript:", "srcdoc"):  # fmt: skip
            assert word not in text, (path.name, word)


# Headers, metrics, traces -------------------------------------------------------------------------


def test_a_tiers_name_ends_no_header() -> None:
    assert _ascii("a\r\nX-Evil: 1\x00ü") == r"a\r\nX-Evil: 1\x00?"


@pytest.mark.parametrize("name", ["a\rb", "a\x00b", "a b", "a" * 129, "ä", ""])
async def test_a_request_id_that_could_be_something_else_comes_not_back(
    upstream: FakeServer, tmp_path: Path, name: str
) -> None:
    body = json.dumps({"model": "support", "messages": [{"role": "user", "content": "x"}]})
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        data = head(f"X-Request-Id: {name}", f"Content-Length: {len(body)}") + body.encode()
        answer = await said(running, data)
    assert status_of(answer) == 400
    assert b"x-request-id" not in answer.lower().partition(b"\r\n\r\n")[0]


async def test_metrics_hold_no_name_that_a_client_has_made_up(
    upstream: FakeServer, tmp_path: Path
) -> None:
    evil = 'x"} 1\nforged_metric{a="b'
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        body = {"model": evil, "messages": [{"role": "user", "content": "x"}]}
        await running.client.post("/v1/chat/completions", json=body)
        body |= {"model": "support", "user": evil, "cascade": {"tags": {evil: evil}}}
        await running.client.post("/v1/chat/completions", json=body)
        await running.client.get("/nowhere/forged_metric")
        await running.client.request("FORGED", "/v1/models")
        text = (await running.client.get("/metrics")).text
    assert "forged_metric" not in text
    assert "FORGED" not in text
    assert all(line.startswith(("#", "cascade_")) for line in text.splitlines())


def test_tags_are_attributes_of_a_span_under_a_name_of_their_own() -> None:
    from cascade.integrations.genai import run_attributes  # noqa: PLC0415

    run = SimpleNamespace(
        tags={"gen_ai.agent.name": "forged", "a\nb": "c"}, cascade="support", id="r",
        conversation=None,
    )  # fmt: skip
    found = run_attributes(run)  # type: ignore[arg-type]
    assert found["gen_ai.agent.name"] == "support"
    assert found["cascade.tag.gen_ai.agent.name"] == "forged"


def test_the_plain_console_is_the_one_that_commands_use() -> None:
    from cascade.cli import console  # noqa: PLC0415

    assert isinstance(console.out, PlainConsole)
    assert isinstance(console.err, PlainConsole)
    assert issubclass(PlainConsole, Console)

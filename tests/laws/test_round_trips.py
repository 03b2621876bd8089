"""What is written to a file or a database and read back is what it was."""

from __future__ import annotations

import asyncio
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from cascade.agents.base import Task
from cascade.agents.leftovers import Leftover, pending_of
from cascade.agents.watching import Case
from cascade.evaluation.transcripts import Outcome, Transcript, read_transcripts
from cascade.ledger import Price
from cascade.ledger.store import Stored, open_store
from cascade.ledger.store.export import FORMULA
from cascade.models.base import Request
from cascade.models.recording import (
    Header,
    answer_line,
    header_line,
    read_recording,
    request_key,
)
from cascade.service.config import ServiceConfig
from cascade.service.reading import read_settings
from cascade.state import (
    Assessment,
    Certificate,
    Completion,
    Decision,
    Draft,
    LedgerEntry,
    Run,
)
from tests.laws import made

FEW = settings(max_examples=12)
LISTS = st.lists(st.tuples(made.ENTRIES, made.TAGS), min_size=1, max_size=4)

Given = Sequence[tuple[LedgerEntry, dict[str, str]]]


async def kept(folder: Path, given_: Given, *exports: str) -> list[Stored]:
    async with open_store(f"sqlite:///{folder}/ledger.db", crash_safe=False) as store:
        for entry, tags in given_:
            store._writer.put(Stored(f"{id(entry)}-{entry.run_id}", entry, tags))
        found = [stored async for stored in store.stored()]
        for name in exports:
            await store.export(folder / name)
    return found


def in_order(given_: Given) -> list[LedgerEntry]:
    return sorted((entry for entry, _ in given_), key=lambda entry: (entry.at, str(id(entry))))


@FEW
@given(LISTS)
def test_an_entry_comes_back_from_the_database(given_: Given) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(kept(Path(folder), given_))
    expected = [(entry, tags) for entry, tags in given_]
    assert len(found) == len(expected)
    for stored in found:
        assert (stored.entry, dict(stored.tags)) in expected


def from_cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row of CSV as it was before it was made safe for spreadsheets."""
    plain = {k: v[1:] if v[:1] == "'" and v[1:2] in FORMULA else v for k, v in row.items()}
    return {name: None if value == "" else value for name, value in plain.items()}


@FEW
@given(LISTS)
def test_an_entry_comes_back_from_each_kind_of_export(given_: Given) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = asyncio.run(kept(folder, given_, "e.jsonl", "e.csv", "e.parquet"))
        lines = (folder / "e.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        with (folder / "e.csv").open(encoding="utf-8", newline="") as file:
            rows = [from_cells(row) for row in csv.DictReader(file)]
        table = pq.read_table(folder / "e.parquet").to_pylist()
    kinds: list[list[dict[str, Any]]] = [[json.loads(line) for line in lines], rows, table]
    for kind in kinds:
        assert len(kind) == len(found)
        for stored, row in zip(found, kind, strict=True):
            assert row.pop("id") == stored.id
            tags = row.pop("tags")
            tags = json.loads(tags) if isinstance(tags, str) else tags
            assert dict(tags or {}) == dict(stored.tags)
            assert read(row, stored.entry) == stored.entry


def read(row: dict[str, Any], like: LedgerEntry) -> LedgerEntry:
    if isinstance(row.get("signals"), str):
        row["signals"] = json.loads(row["signals"])
    for name, field in LedgerEntry.model_fields.items():
        empty = row.get(name) is None and getattr(like, name) in ("", {})
        if empty and not field.is_required():
            row[name] = getattr(like, name)  # CSV tells no empty text from none
    return LedgerEntry.model_validate(row)


@FEW
@given(st.lists(made.COMPLETIONS, min_size=1, max_size=3), made.PLAIN)
def test_an_answer_comes_back_from_a_recording(answers: list[Completion], question: str) -> None:
    request = Request(messages=(HumanMessage(question),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.jsonl"
        lines = [answer_line(request, answer) for answer in answers]
        path.write_text(header_line(Header(model="m")) + "".join(lines), encoding="utf-8")
        assert read_recording(path).answers == {request_key(request): answers}


OUTCOMES = st.builds(
    Outcome,
    correct=st.floats(0, 1),
    input_tokens=made.COUNT,
    output_tokens=made.COUNT,
    cost_usd=st.none() | st.floats(0, 1e6),
    output=st.none() | made.PLAIN,
    confidence=made.SHARE,
    signals=st.dictionaries(made.PLAIN, made.JSON, max_size=2),
    features=st.dictionaries(made.NAME, st.floats(-1e6, 1e6), max_size=2),
)
TRANSCRIPTS = st.builds(
    Transcript,
    dataset=made.PLAIN,
    id=made.NAME,
    prompt=made.PLAIN,
    models=st.dictionaries(made.NAME, OUTCOMES, max_size=2),
    reference=made.JSON,
    split=st.none() | made.PLAIN,
)


@FEW
@given(st.lists(TRANSCRIPTS, max_size=3))
def test_transcripts_come_back_from_their_file(records: list[Transcript]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transcripts.jsonl"
        text = "".join(f"{record.to_line().rstrip()}\n" for record in records)
        path.write_text(text, encoding="utf-8")
        assert list(read_transcripts(path)) == records


@given(made.CERTIFICATES)
def test_a_certificate_comes_back_from_json(certificate: Certificate) -> None:
    assert Certificate.model_validate_json(certificate.model_dump_json()) == certificate


PARTS = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, made.PLAIN)
    | st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
    max_size=3,
)
CONVERSATIONS: st.SearchStrategy[list[BaseMessage]] = st.lists(
    st.builds(HumanMessage, content=made.PLAIN | PARTS)
    | st.builds(AIMessage, content=made.PLAIN, tool_calls=st.lists(made.CALLS, max_size=2))
    | st.builds(ToolMessage, content=made.PLAIN, tool_call_id=made.NAME),
    min_size=1,
    max_size=4,
)


@FEW
@given(CONVERSATIONS, made.COMPLETIONS, st.floats(0, 1))
def test_an_audit_that_waits_comes_back_as_it_was(
    messages: list[BaseMessage], completion: Completion, confidence: float
) -> None:
    case = Case(
        run=Run("r", "q", begun_at=1.5),
        messages=tuple(messages),
        task=Task(),
        draft=Draft(tier="small", completion=completion),
        assessment=Assessment(signals={"x": 1.0}, confidence=confidence, calibrated=True),
        decision=Decision(action="accept", reason="sure", confidence=confidence),
        audit_rate=0.5,
        baseline_usd=None,
    )
    left = Leftover.model_validate_json(pending_of(case, "small large").payload)
    assert left.case == case


@given(
    st.fixed_dictionaries(
        {"input": st.decimals(0, 100, places=4), "output": st.decimals(0, 100, places=4)},
        optional={name: st.decimals(0, 9, places=6) for name in ("cached_input", "per_tool_call")},
    )
)
def test_a_price_comes_back_from_json(amounts: dict[str, Any]) -> None:
    price = Price(**amounts)
    assert Price(**json.loads(price.model_dump_json())) == price


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "cascades": st.dictionaries(
            st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True),
            st.fixed_dictionaries(
                {"tiers": st.just([{"model": "ollama:small"}, {"model": "openai:large"}])},
                optional={
                    "price_of_error": st.decimals("0.001", 10, places=3).map(float),
                    "deadline": st.integers(1, 900),
                    "local_only": st.booleans(),
                    "audit_rate": st.floats(0.01, 1),
                },
            ),
            min_size=1,
            max_size=2,
        )
    },
    optional={
        "listen": st.fixed_dictionaries({"port": st.integers(1, 65535)}),
        "budgets": st.just({"exhausted": "local_only"}),
        "ledger": st.just({"url": "sqlite:////tmp/ledger.db", "texts": "none"}),
    },
)


@FEW
@given(CONFIGURATIONS)
def test_a_configuration_comes_back_from_what_it_says_of_itself(said: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "service.yaml"
        path.write_text(yaml.safe_dump(said), encoding="utf-8")
        config = read_settings(path, {}).config
        again = config.model_dump(mode="json", exclude_unset=True)
        path.write_text(yaml.safe_dump(again), encoding="utf-8")
        assert read_settings(path, {}).config == config
    assert isinstance(config, ServiceConfig)

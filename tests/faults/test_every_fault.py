"""Every fault at every tier, in both protocols, plain and streamed: what the user sees and what the
ledger holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks.fault_table import table
from cascade.state import LedgerEntry, Usage
from tests.faults.cells import ATTEMPTS, PRICES, Seen, World, cells, see
from tests.faults.expectations import LOSES_CONNECTIONS, fails, paid, users
from tests.servers.faults import FAULTS, named

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [fault.name for fault in FAULTS]


@pytest.fixture(scope="module")
def world() -> World:
    return see(cells())


@pytest.fixture(scope="module")
def by_fault(world: World) -> dict[str, list[Seen]]:
    groups = groupby(world.all_seen, lambda seen: seen.cell.fault.name)
    return {name: list(all_seen) for name, all_seen in groups}


@pytest.fixture(params=NAMES)
def all_seen(request: pytest.FixtureRequest, by_fault: dict[str, list[Seen]]) -> list[Seen]:
    """What became of one fault, wherever it can strike."""
    return by_fault[request.param]


def test_a_fault_has_one_name() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_the_fault_was_met(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        assert seen.met or seen.cell.fault.name in LOSES_CONNECTIONS, seen.cell.name


def test_the_user_gets_the_best_answer_there_is_or_a_named_error(all_seen: list[Seen]) -> None:
    found = {seen.cell.name: seen.user for seen in all_seen}
    assert found == {seen.cell.name: users(seen.cell) for seen in all_seen}


def test_a_stream_shows_the_answer_and_nothing_else(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        if seen.cell.form == "stream" and seen.result is not None:
            assert seen.shown == seen.result.answer, seen.cell.name


def test_each_call_that_the_server_saw_is_in_the_ledger_once(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        for tier in PRICES:
            entries, calls = seen.of(tier), seen.calls_of(tier)
            if tier == seen.cell.place and seen.cell.fault.name in LOSES_CONNECTIONS:
                assert len(calls) <= len(entries) <= ATTEMPTS, seen.cell.name
            else:
                assert len(entries) == len(calls), seen.cell.name


def test_an_entry_says_how_its_call_ended(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        last = seen.of(seen.cell.place)[-1]
        assert last.outcome == ("failed" if fails(seen.cell) else "ok"), seen.cell.name
        assert last.note or last.outcome == "ok", seen.cell.name


def test_what_is_paid_is_counted_or_unknown_and_never_wrong(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        for tier, entry in _calls_in(seen):
            struck = tier == seen.cell.place
            known = paid(seen.cell) if struck else "counted"
            if entry.outcome == "failed" and known == "counted":
                assert seen.cell.fault.name in LOSES_CONNECTIONS, seen.cell.name
            elif known == "nothing":
                assert entry.cost_usd == 0, seen.cell.name
            elif known == "unknown":
                assert entry.cost_usd is None, seen.cell.name
                assert entry.cost_basis == entry.basis == "unknown", seen.cell.name
                assert entry.saved_usd is None, seen.cell.name
            else:
                call = next(c for c in seen.calls if c.number == entry.input_tokens)
                usage = Usage(input_tokens=call.number, output_tokens=entry.output_tokens)
                assert entry.output_tokens == call.said.output_tokens, seen.cell.name
                assert entry.cost_usd == PRICES[tier].cost(usage), seen.cell.name


def _calls_in(seen: Seen) -> Iterator[tuple[str, LedgerEntry]]:
    for tier in PRICES:
        for entry in seen.of(tier):
            yield tier, entry


def test_a_sum_with_an_unknown_part_is_unknown(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        if seen.result is not None:
            unknown = any(entry.cost_usd is None for entry in seen.entries)
            assert (seen.result.ledger.cost_usd is None) == unknown, seen.cell.name
            assert (seen.result.ledger.cost_basis == "unknown") == unknown, seen.cell.name


def test_no_key_is_in_an_error_or_in_the_ledger(all_seen: list[Seen]) -> None:
    for seen in all_seen:
        said = [str(seen.error), *(entry.note for entry in seen.entries)]
        assert not any("secret" in text for text in said), seen.cell.name


@pytest.mark.parametrize(
    "name", [f.name for f in FAULTS if f.group == "log-probs" and f.name != "log-probs all zero"]
)
def test_log_probs_that_lie_are_no_confidence(name: str, by_fault: dict[str, list[Seen]]) -> None:
    for seen in by_fault[name]:
        if seen.cell.place == "small":
            assert seen.result is not None
            assert seen.result.confidence is None, seen.cell.name
            assert seen.result.decision.action == "escalate", seen.cell.name


def test_a_provider_that_asks_to_wait_for_a_year_is_asked_once(
    by_fault: dict[str, list[Seen]],
) -> None:
    for seen in by_fault["429, Retry-After absurd"]:
        assert len(seen.of(seen.cell.place)) == 1, seen.cell.name
    for seen in by_fault["429, Retry-After negative"]:
        assert len(seen.of(seen.cell.place)) == ATTEMPTS, seen.cell.name


def test_another_model_than_was_asked_is_noted(by_fault: dict[str, list[Seen]]) -> None:
    for seen in by_fault["another model"]:
        (entry,) = seen.of(seen.cell.place)
        assert entry.note == "answered by 'another-model', which was not asked", seen.cell.name


def test_what_never_ends_is_given_up_for_its_size(by_fault: dict[str, list[Seen]]) -> None:
    for seen in by_fault["endless"]:
        assert all("MiB in one reply" in e.note for e in seen.of(seen.cell.place)), seen.cell.name


def test_an_answer_of_a_megabyte_arrives_as_a_whole(by_fault: dict[str, list[Seen]]) -> None:
    for seen in by_fault["a megabyte"]:
        if seen.cell.place == "large":
            assert seen.result is not None
            assert len(seen.result.answer) == len("word ") * 210_000, seen.cell.name


def test_the_first_of_several_choices_is_the_answer(by_fault: dict[str, list[Seen]]) -> None:
    for seen in by_fault["several choices"]:
        assert seen.result is not None
        assert "Canberra" in seen.result.answer, seen.cell.name


def test_nothing_is_sent_where_a_redirect_leads(world: World) -> None:
    assert named("redirect 307") in {seen.cell.fault for seen in world.all_seen}
    assert world.elsewhere == []


def test_no_call_task_or_socket_is_left(world: World) -> None:
    assert world.hanging == []
    assert world.tasks == []
    assert world.sockets <= 0


def test_the_table_of_the_documents_is_what_becomes_of_them(world: World) -> None:
    document = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
    assert table(world.all_seen) in document

"""Rows that are escalated by the provider's batch API: each once, at its price, whatever breaks."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import BadRequestError, ConfigurationError
from cascade.jobs import Journal, Record, Row, made_with, running, write_output
from cascade.jobs.provider import (
    AtProvider,
    BatchDone,
    Limits,
    Terms,
    made_by_batch,
    run_by_batch,
)
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.observing import ObservedRun, Observer
from cascade.policies import ThresholdPolicy
from cascade.testing import ScriptedModel, reply
from tests.servers import replies
from tests.servers.batches import BatchServer, Fault, Outcome, Step

SMALL = Price(input=1, output=1)
LARGE = Price(input=100, output=100, batch_share="0.5")
ROWS = 12
HARD = 4
"""Rows whose draft is doubtful: 0, 3, 6, 9."""
QUICK = Terms(first_s=0.01, most_s=0.02)
BODY_USD = Decimal("0.0006")
"""Of an answer by batch: 10 tokens in and 2 out at half of $100 per million."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setattr(guard, "forbidden", False)
    with BatchServer() as running:
        yield running


def rows(n: int = ROWS) -> list[Row]:
    return [Row(i, {"id": i}, f"question {i}") for i in range(n)]


def draft(request: Any) -> Any:
    number = int(str(request.messages[-1].text).rsplit(maxsplit=1)[-1])
    return reply(f"draft {number}", probability=0.3 if number % 3 == 0 else 0.95)


def pair(server: BatchServer, **options: Any) -> Cascade:
    small = ScriptedModel(draft, returns_logprobs=True)
    price = options.pop("price", LARGE)
    large = Tier("openai:gpt-4o", base_url=server.openai_url, price=price, max_tokens=10)
    return Cascade(Tier(small, price=SMALL, max_tokens=10), large, **options)


def asked_live(server: BatchServer) -> int:
    return sum(r.path == "/v1/chat/completions" for r in server.received)


async def run(
    cascade: Cascade, folder: Path, given: list[Row] | None = None, **options: Any
) -> BatchDone:
    given = rows() if given is None else given
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - a test's own folder
    with Journal(folder / "j", made_by_batch(made_with(cascade))) as journal:
        done = await run_by_batch(
            cascade, lambda: given, journal, folder / "b", **{"terms": QUICK, **options}
        )
        write_output(folder / "out.jsonl", given, journal)
    return done


def output(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


async def test_only_what_is_escalated_goes_into_a_batch_and_every_row_has_its_answer(
    server: BatchServer, tmp_path: Path
) -> None:
    cascade = pair(server)
    done = await run(cascade, tmp_path)
    assert (done.answered, done.escalated, done.by_batch, done.waiting) == (ROWS, HARD, HARD, 0)
    assert asked_live(server) == 0
    assert server.batched == Counter(f"question {n}" for n in range(0, ROWS, 3))
    found = output(tmp_path)
    assert [row["id"] for row in found] == list(range(ROWS))
    assert found[3]["answer"] == "gpt-4o on question 3"
    assert found[4]["answer"] == "draft 4"
    assert (found[3]["escalated"], found[3]["degraded"]) == (True, False)
    assert not (tmp_path / "b").exists()
    again = await run(cascade, tmp_path)
    assert (again.resumed, again.answered, len(server.remote)) == (ROWS, 0, 1)


async def test_what_is_sent_is_what_the_large_model_would_have_been_asked(
    server: BatchServer, tmp_path: Path
) -> None:
    await run(pair(server), tmp_path)
    (batch,) = server.remote.values()
    (line,) = [line for line in batch.lines if line["custom_id"].startswith("3-")]
    await pair(server).ainvoke("question 3")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"] == server.last.body


async def test_the_ledger_has_the_real_usage_at_the_price_of_a_batch_and_says_which_batch(
    server: BatchServer, tmp_path: Path
) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as store:
        cascade = pair(server, ledger=store)
        done = await run(cascade, tmp_path, name="night")
        await store.flush()
        stored = [item async for item in store.stored()]
    by_batch = [item for item in stored if item.entry.node == "expert"]
    assert len(by_batch) == HARD
    for item in by_batch:
        entry = item.entry
        assert (entry.input_tokens, entry.output_tokens, entry.cost_usd) == (10, 2, BODY_USD)
        assert entry.price == "set by you, by batch × 0.5"
        assert (entry.baseline_usd, entry.saved_usd, entry.basis) == (BODY_USD, 0, "measured")
        assert entry.latency_ms == 60_000
        assert (item.tags["job"], item.tags["batch"]) == ("night", "batch_0")
    cost = sum((item.entry.cost_usd or Decimal(0) for item in stored), Decimal(0))
    saved = sum((item.entry.saved_usd or Decimal(0) for item in stored), Decimal(0))
    assert (done.spent_usd, done.saved_usd) == (cost, saved)


async def test_an_accepted_draft_saves_what_the_large_model_had_cost_by_batch(
    server: BatchServer, tmp_path: Path
) -> None:
    await run(pair(server), tmp_path)
    live = await pair(server).ainvoke("question 4")
    by_batch = Decimal(output(tmp_path)[4]["saved_usd"])
    assert live.ledger.saved_usd is not None
    assert live.ledger.baseline_usd is not None
    assert by_batch == live.ledger.saved_usd - live.ledger.baseline_usd / 2


async def test_a_policy_decides_at_the_price_that_is_paid(
    server: BatchServer, tmp_path: Path
) -> None:
    dear = Price(input=100, output=100, batch_share="0.01")
    # Worth $0.3 × 0.01 = $0.003 at most; asking costs about $0.0017 now and $0.000017 by batch.
    price_of_error = 0.02
    cascade = pair(server, price=dear, price_of_error=price_of_error)
    now = await cascade.ainvoke("question 4")
    done = await run(cascade, tmp_path, [Row(0, {}, "question 4")])
    assert (now.escalated, done.escalated) == (False, 1)


async def test_a_policy_hears_of_each_row_once_with_what_its_escalation_may_cost(
    server: BatchServer, tmp_path: Path
) -> None:
    class Learning(ThresholdPolicy):
        def paid(self, cost_usd: Decimal) -> None:
            heard.append(cost_usd)

    heard: list[Decimal] = []
    await run(pair(server, policy=Learning(0.5)), tmp_path)
    # A draft costs $0.000012 at most, and an answer by batch is guessed at $0.0014.
    assert [usd > Decimal("0.001") for usd in sorted(heard)] == [False] * (ROWS - HARD) + [
        True
    ] * HARD


async def test_batches_are_no_larger_than_they_may_be(server: BatchServer, tmp_path: Path) -> None:
    server.requests = 3
    await run(pair(server), tmp_path, terms=Terms(Limits(requests=3), first_s=0.01))
    assert [len(batch.lines) for batch in server.remote.values()] == [3, 1]
    one = len(json.dumps(next(iter(server.remote.values())).lines[0]))
    server.size = 2 * one + 20
    limits = Limits(size=server.size)
    done = await run(pair(server), (tmp_path / "2"), terms=Terms(limits, first_s=0.01))
    assert done.answered == ROWS
    assert [len(batch.lines) for batch in server.remote.values()][2:] == [2, 2]
    tiny = Terms(Limits(size=20), first_s=0.01)
    done = await run(pair(server), (tmp_path / "3"), terms=tiny)
    assert (done.answered, done.failed) == (ROWS - HARD, HARD)
    assert "larger than 20 bytes" in output(tmp_path / "3")[0]["error"]


def some(body: Mapping[str, Any]) -> Outcome:
    """Of four requests: an answer, a refusal, an error, nothing."""
    number = int(body["messages"][-1]["content"].rsplit(maxsplit=1)[-1])
    kinds: dict[int, Outcome] = {3: 400, 6: "batch_expired", 9: None}
    return kinds.get(number, replies.openai_body("fine"))


@pytest.mark.parametrize("ends", ["expired", "cancelled", "completed"])
async def test_rows_that_a_batch_has_not_answered_say_why_and_go_into_the_next(
    ends: str, server: BatchServer, tmp_path: Path
) -> None:
    server.ends, server.answer = ends, some
    cascade = pair(server)
    done = await run(cascade, tmp_path)
    assert (done.answered, done.failed) == (ROWS - 3, 3)
    errors = [row["error"] for row in output(tmp_path) if row["error"]]
    assert errors == [
        "BatchError: status 400",
        "BatchError: batch_expired of this request",
        f"BatchError: batch batch_0 {ends}, without an answer to this row",
    ]
    drafted = len(cascade.tiers[0].model.requests)  # type: ignore[attr-defined]
    server.ends, server.answer = "completed", lambda _: replies.openai_body("late")
    again = await run(cascade, tmp_path)
    assert (again.resumed, again.answered, again.by_batch) == (ROWS - 3, 3, 3)
    assert len(cascade.tiers[0].model.requests) == drafted  # type: ignore[attr-defined]
    assert output(tmp_path)[3]["answer"] == "late"
    assert [len(batch.lines) for batch in server.remote.values()] == [4, 3]


async def test_a_batch_that_fails_as_a_whole_says_so_in_every_row(
    server: BatchServer, tmp_path: Path
) -> None:
    server.ends = "failed"
    done = await run(pair(server), tmp_path)
    assert (done.failed, done.stopped) == (HARD, None)
    assert "token_limit_exceeded: too many are enqueued" in output(tmp_path)[0]["error"]


async def test_asked_at_once_it_costs_the_full_price_and_is_its_own_baseline(
    server: BatchServer, tmp_path: Path
) -> None:
    server.answer = some
    async with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as store:
        terms = Terms(ask_at_once=True, first_s=0.01)
        done = await run(pair(server, ledger=store), tmp_path, terms=terms)
        await store.flush()
        stored = [item async for item in store.stored() if item.entry.node == "expert"]
    assert (done.answered, done.by_batch, asked_live(server)) == (ROWS, 1, 3)
    assert sorted((i.entry.cost_usd, i.entry.saved_usd) for i in stored) == [
        (BODY_USD, 0),
        *[(2 * BODY_USD, 0)] * 3,
    ]
    assert sum("batch" in item.tags for item in stored) == 1
    assert output(tmp_path)[3]["answer"] == "QUESTION 3"


async def test_an_answer_that_cannot_be_read_was_paid_and_is_not_free(
    server: BatchServer, tmp_path: Path
) -> None:
    server.answer = lambda _: {"choices": "none"}
    cascade = pair(server)
    done = await run(cascade, tmp_path)
    assert done.unknown == HARD
    found = output(tmp_path)[0]
    assert (found["degraded"], found["cost_usd"], found["answer"]) == (True, None, "draft 0")


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("upload", "drop_before"),
        ("upload", "drop_after"),
        ("create", "drop_before"),
        ("create", "drop_after"),
        ("retrieve", "drop_after"),
        ("content", "drop_before"),
        ("content", "busy"),
        ("create", "busy"),
    ],
)
async def test_what_breaks_on_the_way_is_looked_for_and_not_repeated(
    step: Step, fault: Fault, server: BatchServer, tmp_path: Path
) -> None:
    server.fails(step, fault)
    done = await run(pair(server), tmp_path)
    assert (done.answered, done.failed) == (ROWS, 0)
    assert len(server.remote) == 1
    uploads = [name for name, _ in server.files.values() if name.startswith("cascade-")]
    assert len(uploads) == 1


async def test_a_refusal_ends_the_job_and_the_next_run_goes_on(
    server: BatchServer, tmp_path: Path
) -> None:
    server.fails("create", "refuse")
    cascade = pair(server)
    with pytest.raises(BadRequestError, match="billing limit"):
        await run(cascade, tmp_path)
    done = await run(cascade, tmp_path)
    assert (done.resumed, done.by_batch, len(server.remote)) == (ROWS - HARD, HARD, 1)


async def test_among_many_files_and_batches_its_own_is_found(
    server: BatchServer, tmp_path: Path
) -> None:
    for n in range(3):
        await run(pair(server), (tmp_path / str(n)))
    server.fails("create", "drop_after")
    server.fails("upload", "drop_after")
    done = await run(pair(server), tmp_path / "last")
    assert done.by_batch == HARD
    assert len(server.remote) == 4


async def test_it_tells_what_it_waits_for(server: BatchServer, tmp_path: Path) -> None:
    server.looks = 3
    told: list[AtProvider] = []

    def show(done: BatchDone) -> None:
        if done.at_provider is not None:
            told.append(done.at_provider)

    done = await run(pair(server), tmp_path, progress=show)
    assert {(seen.batches, seen.requests) for seen in told} == {(1, HARD)}
    assert told[-1].until is not None
    assert done.at_provider is None


async def test_a_budget_holds_back_what_waits(server: BatchServer, tmp_path: Path) -> None:
    cascade = pair(server)
    # A draft is guessed at $0.000028 and an escalation at $0.0014: there is room for two of them.
    done = await run(cascade, tmp_path, budget_usd=Decimal("0.0035"))
    assert "or put aside for rows that wait" in str(done.stopped)
    assert 0 < done.by_batch < HARD
    assert done.spent_usd <= Decimal("0.0035")
    rest = await run(cascade, tmp_path, budget_usd=Decimal(1))
    assert rest.stopped is None
    assert rest.resumed + rest.answered == ROWS
    assert sum(server.batched.values()) == HARD


async def test_less_money_than_what_waits_sends_nothing_new(
    server: BatchServer, tmp_path: Path
) -> None:
    server.fails("create", "refuse")
    cascade = pair(server)
    with pytest.raises(BadRequestError):
        await run(cascade, tmp_path, budget_usd=Decimal(1))
    for note in (tmp_path / "b").iterdir():
        note.unlink()  # as if they had not been written yet
    done = await run(cascade, tmp_path, budget_usd=Decimal("0.003"))
    assert "does not cover the rows that wait" in str(done.stopped)
    assert (done.waiting, len(server.remote)) == (HARD, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline": 5.0}, "deadline=5.0 and a large model by batch"),
        ({"mode": "shadow"}, "mode='shadow'"),
        ({"price": Price(input=1, output=1)}, "batch_share"),
        ({"local_only": True, "price": None}, "nothing to batch"),
    ],
)
async def test_what_needs_its_answer_at_once_is_refused(
    options: dict[str, Any], message: str, server: BatchServer, tmp_path: Path
) -> None:
    if options.get("local_only"):
        small = Tier(ScriptedModel(draft, returns_logprobs=True), local=True)
        large = Tier("openai:gpt-4o", api_key="k", base_url="https://example.invalid/v1")
        cascade = Cascade(small, large, local_only=True)
    else:
        cascade = pair(server, **options)
    with pytest.raises(ConfigurationError, match=message):
        await run(cascade, tmp_path)


async def test_a_model_without_a_batch_api_is_refused(server: BatchServer, tmp_path: Path) -> None:
    small = ScriptedModel(draft, returns_logprobs=True)
    cascade = Cascade(small, ScriptedModel("x", name="large"))
    with pytest.raises(ConfigurationError, match="scripted:large cannot be asked by batch"):
        await run(cascade, tmp_path)
    assert small.requests == []


async def test_a_note_that_cannot_be_read_stops_it(server: BatchServer, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "00001-x.json").write_text("{")
    with pytest.raises(ConfigurationError, match="its rows would be paid for again"):
        await run(pair(server), tmp_path)
    assert math.isclose(len(server.remote), 0)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_killed_while_answers_are_taken_in_each_call_is_one_entry_of_the_ledger(
    after: int, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, taken = Journal.add, 0

    def dies(journal: Journal, record: Record) -> None:
        nonlocal taken
        if record.escalated:
            if taken == after:
                raise KeyboardInterrupt
            taken += 1
        add(journal, record)

    async with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as store:
        cascade = pair(server, ledger=store)
        with monkeypatch.context() as dying:
            dying.setattr(Journal, "add", dies)
            with pytest.raises(KeyboardInterrupt):
                await run(cascade, tmp_path)
        done = await run(cascade, tmp_path)
        await store.flush()
        stored = [item.entry async for item in store.stored()]
    assert (done.by_batch, len(server.remote)) == (HARD - after, 1)
    by_batch = [entry for entry in stored if entry.node == "expert"]
    assert [entry.cost_usd for entry in by_batch] == [BODY_USD] * HARD
    cost = sum((Decimal(row["cost_usd"]) for row in output(tmp_path)), Decimal(0))
    assert cost == sum((entry.cost_usd or Decimal(0) for entry in stored), Decimal(0))
    with Journal(tmp_path / "j", made_by_batch(made_with(cascade))) as journal:
        assert journal.spent_usd == cost


async def test_a_row_that_has_changed_meanwhile_is_asked_anew(
    server: BatchServer, tmp_path: Path
) -> None:
    server.fails("retrieve", "refuse")
    cascade = pair(server)
    with pytest.raises(BadRequestError):
        await run(cascade, tmp_path)
    changed = [*rows()[:-3], Row(9, {"id": 9}, "question 999"), *rows()[-2:]]
    done = await run(cascade, tmp_path, changed)
    assert (done.answered, done.by_batch) == (HARD, HARD)
    assert output(tmp_path)[9]["answer"] == "gpt-4o on question 999"
    assert [len(batch.lines) for batch in server.remote.values()] == [4, 1]


@pytest.mark.parametrize(
    ("reading", "in_batches", "answered"), [(2, [2], 0), (3, [4], 2)], ids=["written", "taken in"]
)
async def test_a_stop_is_heard_while_requests_are_written_and_answers_taken_in(
    reading: int,
    in_batches: list[int],
    answered: int,
    server: BatchServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "BREATH", 1)
    cascade, stop, readings = pair(server), asyncio.Event(), 0

    def read() -> Iterator[Row]:
        nonlocal readings
        readings += 1
        for row in rows():
            if readings == reading and row.number == 4:
                asyncio.get_running_loop().call_soon(stop.set)  # as a signal is told
            yield row

    with Journal(tmp_path / "j", made_by_batch(made_with(cascade))) as journal:
        done = await run_by_batch(cascade, read, journal, tmp_path / "b", terms=QUICK, stop=stop)
    assert (done.stopped, done.by_batch) == ("it was interrupted", answered)
    notes = (tmp_path / "b").glob("*.json")
    assert [json.loads(note.read_text())["rows"] for note in notes] == in_batches
    rest = await run(cascade, tmp_path)
    assert (rest.by_batch, rest.resumed) == (HARD - answered, ROWS - HARD + answered)
    assert server.batched == Counter(f"question {n}" for n in range(0, ROWS, 3))


async def test_an_observer_hears_the_end_of_every_run_also_of_those_that_wait(
    server: BatchServer, tmp_path: Path
) -> None:
    class Runs(Observer):
        begun, ended = 0, 0

        def run_began(self, run: ObservedRun) -> None:
            self.begun += 1

        def run_ended(self, run: ObservedRun) -> None:
            self.ended += 1

    runs, stop = Runs(), asyncio.Event()

    def show(done: BatchDone) -> None:
        if done.rows == ROWS:
            stop.set()

    done = await run(pair(server, observers=[runs]), tmp_path, progress=show, stop=stop)
    assert (done.stopped, done.waiting) == ("it was interrupted", HARD)
    assert (runs.begun, runs.ended) == (ROWS, ROWS)

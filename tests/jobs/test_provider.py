"""Rows that are escalated by the provider's batch API: each once, at its price, whatever breaks."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import BadRequestError, ConfigurationError, RealRequestForbiddenError
from cascade.jobs import Done, Journal, Row, made_with, provider, run_job, write_output
from cascade.jobs.provider import BatchJob, read_reply
from cascade.ledger import MemoryLedger
from cascade.middleware import CascadeMiddleware, Deadline
from cascade.models.base import guard
from cascade.testing import ScriptedModel, reply
from tests.servers import replies
from tests.servers.batches import BatchServer, Fault, Outcome, Step

SMALL = Price(input=1, output=1)
LARGE = Price(input=100, output=100, batch_share="0.5")
ROWS = 12
HARD = 4
"""Rows whose draft is doubtful: 0, 3, 6, 9."""
BODY_USD = Decimal("0.0006")
"""Of an answer by batch: 10 tokens in and 2 out at half of $100 per million."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setattr(provider, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(provider, "LONGEST_WAIT_S", 0.02)
    with BatchServer() as running:
        yield running


def rows(n: int = ROWS) -> list[Row]:
    return [Row(i, {"id": i}, f"question {i}") for i in range(n)]


def draft(request: Any) -> Any:
    number = int(str(request.messages[-1].text).rsplit(maxsplit=1)[-1])
    return reply(f"draft {number}", probability=0.3 if number % 3 == 0 else 0.95)


def pair(server: BatchServer, **options: Any) -> Cascade:
    small = options.pop("small", None) or ScriptedModel(draft, returns_logprobs=True)
    price = options.pop("price", LARGE)
    large = Tier("openai:gpt-4o", base_url=server.openai_url, price=price, max_tokens=10)
    return Cascade(Tier(small, price=SMALL, max_tokens=10), large, **options)


async def run(made: Cascade, folder: Path, given: list[Row] | None = None, **how: Any) -> Done:
    given = rows() if given is None else given
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - a test's own folder
    path = folder / "j"
    with Journal(path, made_with(made)) as journal:
        done = await run_job(made, given, journal, kind=BatchJob, **how)
        write_output(folder / "out.jsonl", given, journal)
    return done


def output(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


BY_BATCH = {f"question {n}": 1 for n in range(0, ROWS, 3)}
"""How often each question may be in a batch that was begun."""


async def test_only_escalations_go_into_a_batch(server: BatchServer, tmp_path: Path) -> None:
    cascade = pair(server)
    done = await run(cascade, tmp_path)
    assert (done.answered, done.escalated, done.failed, done.waiting) == (ROWS, HARD, 0, 0)
    assert len(server.seen) == 0
    assert server.batched == BY_BATCH
    found = output(tmp_path)
    assert [row["id"] for row in found] == list(range(ROWS))
    assert found[3]["answer"] == "gpt-4o on question 3"
    assert found[4]["answer"] == "draft 4"
    assert (found[3]["escalated"], found[3]["degraded"]) == (True, False)
    assert set(os.listdir(tmp_path)) == {"j", "out.jsonl"}  # noqa: PTH208
    again = await run(cascade, tmp_path)
    assert (again.resumed, again.answered, len(server.remote)) == (ROWS, 0, 1)


async def test_where_real_requests_are_forbidden_no_batch_is_sent(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "forbidden", True)
    with pytest.raises(RealRequestForbiddenError):
        await run(pair(server), tmp_path)
    assert server.batched == {}


async def test_what_is_sent_is_what_it_would_be_asked(server: BatchServer, tmp_path: Path) -> None:
    await run(pair(server), tmp_path)
    (batch,) = server.remote.values()
    (line,) = [line for line in batch.lines if line["custom_id"].startswith("3-")]
    await pair(server).ainvoke("question 3")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"] == server.last.body


async def test_a_ledger_has_real_usage_at_its_price(server: BatchServer, tmp_path: Path) -> None:
    store = MemoryLedger()
    done = await run(pair(server, ledger=store), tmp_path)
    by_batch = [entry for entry in store.entries if entry.node == "expert"]
    assert len(by_batch) == HARD
    for entry in by_batch:
        assert (entry.input_tokens, entry.output_tokens, entry.cost_usd) == (10, 2, BODY_USD)
        assert entry.price == "set by you, by batch × 0.5"
        assert (entry.baseline_usd, entry.saved_usd, entry.basis) == (BODY_USD, 0, "measured")
        assert entry.latency_ms == 60_000
        assert store.tags[entry.id]["batch"] == "batch_0"
    cost = sum((entry.cost_usd or Decimal(0) for entry in store.entries), Decimal(0))
    saved = sum((entry.saved_usd or Decimal(0) for entry in store.entries), Decimal(0))
    assert (done.spent_usd, done.saved_usd) == (cost, saved)


async def test_a_kept_draft_saves_the_cost_by_batch(server: BatchServer, tmp_path: Path) -> None:
    await run(pair(server), tmp_path, [Row(0, {}, "question 4")])
    live = await pair(server).ainvoke("question 4")
    by_batch = Decimal(output(tmp_path)[0]["saved_usd"])
    assert by_batch == live.ledger.saved_usd - live.ledger.baseline_usd / 2


async def test_a_policy_decides_at_the_price_paid(server: BatchServer, tmp_path: Path) -> None:
    dear = Price(input=100, output=100, batch_share="0.01")
    # Worth $0.3 × 0.01 = $0.003 at most; asking costs about $0.0017 now and $0.000017 by batch.
    cascade = pair(server, price=dear, price_of_error=0.02)
    now = await cascade.ainvoke("question 4")
    done = await run(cascade, tmp_path, [Row(0, {}, "question 4")])
    assert (now.escalated, done.escalated) == (False, 1)


@pytest.mark.parametrize(("limit", "most"), [("MOST_REQUESTS", 3), ("MOST_BYTES", 600)])
async def test_batches_are_no_larger_than_they_may_be(
    limit: str, most: int, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, limit, most)
    done = await run(pair(server, ledger=MemoryLedger()), tmp_path)
    assert (done.answered, done.failed, done.waiting) == (ROWS, 0, 0)
    assert [len(batch.lines) for batch in server.remote.values()] == [3, 1]


def some(body: Mapping[str, Any]) -> Outcome:
    """Of four requests: an answer, a refusal, an error, nothing."""
    number = int(body["messages"][-1]["content"].rsplit(maxsplit=1)[-1])
    kinds: dict[int, Outcome] = {3: 400, 6: "batch_expired", 9: None}
    return kinds.get(number, replies.openai_body("fine"))


@pytest.mark.parametrize("ends", ["expired", "cancelled", "completed"])
async def test_rows_left_over_say_why(ends: str, server: BatchServer, tmp_path: Path) -> None:
    server.ends, server.answer = ends, some
    cascade = pair(server)
    small: Any = cascade.tiers[0].model
    done = await run(cascade, tmp_path)
    assert (done.answered, done.failed) == (ROWS - 3, 3)
    failed = [row for row in output(tmp_path) if row["error"]]
    assert [row["error"] for row in failed] == [
        "BatchError: status 400",
        "BatchError: batch_expired of this request",
        f"BatchError: batch batch_0 {ends}, without an answer to this row",
    ]
    assert all(Decimal(row["cost_usd"]) > 0 for row in failed)  # their drafts
    drafted = len(small.requests)
    server.ends, server.answer = "completed", lambda _: replies.openai_body("late")
    again = await run(cascade, tmp_path)
    assert (again.resumed, again.answered, again.waiting) == (ROWS - 3, 3, 0)
    assert again.spent_usd == 3 * BODY_USD
    assert len(small.requests) == drafted
    assert output(tmp_path)[3]["answer"] == "late"
    assert [len(batch.lines) for batch in server.remote.values()] == [4, 3]


async def test_an_unread_answer_is_not_free(server: BatchServer, tmp_path: Path) -> None:
    server.answer = lambda _: {"choices": "none"}
    done = await run(pair(server), tmp_path)
    assert done.unknown == HARD
    found = output(tmp_path)[0]
    assert (found["degraded"], found["cost_usd"], found["answer"]) == (True, None, "draft 0")


async def test_an_unread_answer_is_asked_for_again(server: BatchServer, tmp_path: Path) -> None:
    empty = ScriptedModel(lambda _: reply("", probability=[]), returns_logprobs=True)
    server.answer = lambda _: {"choices": "none"}
    cascade = pair(server, small=empty)
    done = await run(cascade, tmp_path, rows(1))
    assert (done.failed, done.waiting) == (1, 0)
    assert output(tmp_path)[0]["cost_usd"] is None
    server.answer = lambda _: replies.openai_body("fine")
    again = await run(cascade, tmp_path, rows(1))
    assert (again.answered, again.spent_usd, len(empty.requests)) == (1, BODY_USD, 1)
    assert output(tmp_path)[0]["cost_usd"] is None  # of the first answer it stays unknown


@pytest.mark.parametrize("line", [b"no json", b"[1]", b"{}", b'{"custom_id": "1", "error": "?"}'])
def test_lines_that_are_no_replies_are_of_no_request(line: bytes) -> None:
    assert read_reply(line) == ("", None, None)


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


async def test_a_refusal_ends_it_and_the_next_goes_on(server: BatchServer, tmp_path: Path) -> None:
    server.fails("create", "refuse")
    cascade = pair(server)
    with pytest.raises(BadRequestError, match="billing limit"):
        await run(cascade, tmp_path)
    done = await run(cascade, tmp_path)
    assert (done.resumed, done.answered, done.waiting) == (ROWS - HARD, HARD, 0)
    assert len(server.remote) == 1


async def test_a_budget_holds_back_what_waits(server: BatchServer, tmp_path: Path) -> None:
    cascade = pair(server)
    # A draft is guessed at $0.000028 and an escalation at $0.0007: there is room for two of them.
    done = await run(cascade, tmp_path, budget_usd=Decimal("0.0017"))
    assert "does not cover another row" in str(done.stopped)
    assert 0 < done.escalated < HARD
    assert done.spent_usd <= Decimal("0.0017")
    rest = await run(cascade, tmp_path, budget_usd=Decimal(1))
    assert rest.stopped is None
    assert rest.resumed + rest.answered == ROWS
    assert server.batched == BY_BATCH


async def test_less_money_than_waits_sends_nothing(server: BatchServer, tmp_path: Path) -> None:
    cascade = pair(server)
    await interrupted_after_drafts(cascade, tmp_path)
    done = await run(cascade, tmp_path, budget_usd=Decimal("0.002"))
    assert "does not cover the rows that wait" in str(done.stopped)
    assert (done.waiting, len(server.remote)) == (HARD, 0)


async def interrupted_after_drafts(cascade: Cascade, folder: Path) -> Done:
    """A job that is told to stop when all is drafted."""
    stop = asyncio.Event()

    def show(done: Done) -> None:
        if done.rows == ROWS:
            stop.set()

    return await run(cascade, folder, progress=show, stop=stop)


@pytest.mark.parametrize("step", ["upload", "create", "retrieve", "content"])
async def test_a_stop_is_heard_while_the_provider_is_asked_and_nothing_is_sent_twice(
    step: Step, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "TROUBLES", 10**9)
    busy: list[Fault] = ["busy"] * 10_000
    server.fails(step, *busy)
    server.looks = 0
    stop, cascade = asyncio.Event(), pair(server)

    async def stops() -> None:
        while not server.steps[step]:  # noqa: ASYNC110 - the server is another thread's
            await asyncio.sleep(0.001)
        stop.set()

    async with asyncio.TaskGroup() as both:
        stopping = both.create_task(stops())
        done = await run(cascade, tmp_path, stop=stop)
        stopping.cancel()
    assert (done.stopped, done.waiting) == ("it was interrupted", HARD)
    server.mend()
    rest = await run(cascade, tmp_path)
    assert (rest.answered, rest.waiting) == (HARD, 0)
    assert server.batched == BY_BATCH


class Killed(BaseException):
    """The end of a process, as far as files and the server can tell."""


@pytest.mark.parametrize("point", range(8))
async def test_killed_at_any_line_of_the_journal_each_question_is_in_one_batch_and_paid_once(
    point: int, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def dying_at(write: Any) -> Any:
        def dies(*given: Any, **facts: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == ROWS + point:
                raise Killed
            write(*given, **facts)

        return dies

    store = MemoryLedger()
    cascade = pair(server, ledger=store)
    with monkeypatch.context() as dying:
        dying.setattr(Journal, "add", dying_at(Journal.add))
        dying.setattr(Journal, "note", dying_at(Journal.note))
        with pytest.raises((Killed, BaseExceptionGroup)):
            await run(cascade, tmp_path)
    await run(cascade, tmp_path)
    assert server.batched == BY_BATCH
    by_batch = [entry for entry in store.entries if entry.node == "expert"]
    assert [entry.cost_usd for entry in by_batch] == [BODY_USD] * HARD
    cost = sum((Decimal(row["cost_usd"]) for row in output(tmp_path)), Decimal(0))
    with Journal(tmp_path / "j", made_with(cascade)) as journal:
        assert journal.spent_usd == cost
        assert journal.expected_usd == 0


async def test_a_row_that_has_changed_is_asked_anew(server: BatchServer, tmp_path: Path) -> None:
    server.fails("retrieve", "refuse")
    cascade = pair(server)
    with pytest.raises(BadRequestError):
        await run(cascade, tmp_path)
    changed = [*rows()[:-3], Row(9, {"id": 9}, "question 999"), *rows()[-2:]]
    done = await run(cascade, tmp_path, changed)
    assert (done.answered, done.waiting) == (HARD, 0)
    assert output(tmp_path)[9]["answer"] == "gpt-4o on question 999"
    assert [len(batch.lines) for batch in server.remote.values()] == [4, 1]


async def test_what_no_request_can_hold_fails_alone(server: BatchServer, tmp_path: Path) -> None:
    odd = {"role": "user", "content": [{"type": "video", "base64": "AAAA", "mime_type": "video/x"}]}
    small = ScriptedModel(lambda _: reply("draft", probability=0.3), returns_logprobs=True)
    given = [Row(0, {"id": 0}, [odd]), *rows()[1:]]
    done = await run(pair(server, small=small), tmp_path, given)
    assert (done.answered, done.failed) == (ROWS - 1, 1)
    assert "part that no model can be sent" in output(tmp_path)[0]["error"]


async def test_what_middleware_answers_is_not_sent(server: BatchServer, tmp_path: Path) -> None:
    class Knows(CascadeMiddleware):
        async def wrap_model_call(self, call: Any, handler: Any) -> Any:
            return reply("known") if call.node == "expert" else await handler(call)

    done = await run(pair(server, middleware=[Knows()]), tmp_path)
    assert (done.answered, done.waiting, len(server.remote)) == (ROWS, 0, 0)
    assert output(tmp_path)[0]["answer"] == "known"


async def test_without_a_price_there_is_no_budget(server: BatchServer, tmp_path: Path) -> None:
    done = await run(pair(server, price=None), tmp_path)
    assert (done.answered, done.unknown, done.saved_usd) == (ROWS, HARD, None)
    with pytest.raises(ConfigurationError, match="a budget needs a price"):
        await run(pair(server, price=None), tmp_path / "2", budget_usd=Decimal(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline": 5.0}, "deadline and a large model by batch exclude each other"),
        ({"middleware": [Deadline(5.0)]}, "a batch takes up to a day"),
        ({"audit_rate": 0.1, "ledger": MemoryLedger()}, "it needs the answer at once"),
        ({"price": Price(input=1, output=1)}, "batch_share"),
    ],
)
async def test_what_needs_its_answer_at_once_or_has_no_price_is_refused(
    options: dict[str, Any], message: str, server: BatchServer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await run(pair(server, **options), tmp_path)

"""Prompts, answers and pending audits: kept on demand alone, and gone when they should be."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError, LedgerError, ModelError
from cascade.ledger import (
    Amounts,
    AuditStore,
    LedgerStore,
    MemoryLedger,
    Pending,
    Recorder,
    Texts,
    tagged,
)
from cascade.ledger.store import (
    Batch,
    MemoryBackend,
    Selection,
    Store,
    StoredTexts,
    mask_secrets,
    open_store,
)
from cascade.ledger.store.redaction import SECRETS
from cascade.ledger.store.sql import SqlBackend
from cascade.ledger.texts import text_hash
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel
from tests.ledger.store.claiming import claim_together

ENTRY = LedgerEntry(run_id="r", node="draft", attempt_id="call-1")
QUESTION, ANSWER = "Where does Ada live?", "In Walderslade, since 1815."
TEXTS = Texts(f'[{{"content":"{QUESTION}","role":"human"}}]', ANSWER)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def a_cascade(ledger: LedgerStore | None, *small: Any) -> Cascade:
    price = Price(input=1, output=1)
    model = ScriptedModel(list(small) or [ANSWER], logprobs=0.99)
    return Cascade(Tier(model, price=price), ScriptedModel(["large"]), ledger=ledger)


async def texts_in(store: Store, selection: Selection | None = None) -> list[StoredTexts]:
    return [kept async for kept in store.stored_texts(selection or Selection())]


def pending(run_id: str = "r", **fields: Any) -> Pending:
    return Pending(**{"run_id": run_id, "payload": f'{{"question":"{QUESTION}"}}', **fields})


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("keyed", [False, True])
async def test_calls_have_hashes_in_the_store_and_in_the_result(keyed: bool) -> None:
    async with open_store("memory://", hash_key="k" if keyed else None) as store:
        result = await a_cascade(store).ainvoke(QUESTION)
        kept = {e.node: e for e in await store.query()}
    assert kept["draft"].answer_hash == text_hash(ANSWER, b"k" if keyed else None)
    assert kept["draft"].prompt_hash == text_hash(
        f'[{{"content":"{QUESTION}","role":"human"}}]', b"k" if keyed else None
    )
    assert kept["verify"].prompt_hash is None
    assert {e.node: e for e in result.ledger} == kept


async def test_a_store_that_only_appends_gets_plain_hashes_and_no_store_none() -> None:
    ledger = MemoryLedger()
    await a_cascade(ledger).ainvoke(QUESTION)
    without = await a_cascade(None).ainvoke(QUESTION)
    assert text_hash(ANSWER) in {e.answer_hash for e in ledger.entries}
    assert {e.prompt_hash for e in without.ledger} == {None}


async def test_a_failed_call_has_the_hash_of_its_prompt_alone() -> None:
    async with open_store("memory://", texts="all") as store:
        with pytest.raises(ModelError):
            await a_cascade(store, ModelError("no", model="m", billed=False)).ainvoke(QUESTION)
        failed = next(e for e in await store.query() if e.outcome == "failed")
        (kept,) = [kept for kept in await texts_in(store) if kept.id == failed.attempt_id]
    assert failed.prompt_hash is not None
    assert failed.answer_hash is None
    assert kept.texts.answer is None


async def test_without_being_asked_a_store_writes_no_text_to_its_file(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        result = await a_cascade(store).ainvoke(QUESTION)
        store.put_pending(pending())
        assert await store.pending() == []
    assert result.run_id.encode() in bytes_in(tmp_path)
    for text in (QUESTION, ANSWER, "Walderslade"):
        assert text.encode() not in bytes_in(tmp_path)


async def test_texts_of_audits_are_kept_alone_where_only_they_are_asked_for(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db", texts="pending") as store:
        await a_cascade(store).ainvoke(QUESTION)
        store.put_pending(pending())
        assert await texts_in(store) == []
        assert await store.pending() == [pending(at=(await store.pending())[0].at)]
    assert ANSWER.encode() not in bytes_in(tmp_path)


async def test_all_texts_belong_to_their_entries_and_have_their_tags(url: str) -> None:
    async with open_store(url, texts="all", tags={"app": "x"}) as store:
        with tagged(user="42"):
            result = await a_cascade(store).ainvoke(QUESTION)
        (kept,) = await texts_in(store)
        draft = next(e for e in result.ledger if e.node == "draft")
        assert (kept.id, kept.run_id, kept.tier) == (draft.attempt_id, result.run_id, draft.tier)
        assert (kept.texts, kept.tags) == (TEXTS, {"app": "x", "user": "42"})
        assert await texts_in(store, Selection(tags={"user": "1"})) == []


async def test_texts_are_read_over_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.ledger.store.store.TEXTS_PAGE", 2)
    async with open_store("memory://", texts="all") as store:
        for i in range(5):
            store.keep(LedgerEntry(run_id=str(i), node="draft"), TEXTS)
        assert [kept.run_id for kept in await texts_in(store)] == list("01234")


async def test_what_is_deleted_is_not_in_the_file_any_more(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db", texts="all") as store:
        store.keep(ENTRY, Texts(TEXTS.prompt, ANSWER * 500))
        store.put_pending(pending())
        await store.flush()
        assert ANSWER.encode() in bytes_in(tmp_path)
        assert await store.delete(Selection(run_id="r")) == 1
        assert await store.pending() == await texts_in(store) == []
    for text in (QUESTION, ANSWER):
        assert text.encode() not in bytes_in(tmp_path)


async def test_texts_may_be_deleted_earlier_than_their_entries(url: str) -> None:
    old = datetime.now(UTC) - 10 * DAY
    async with open_store(url, texts="all") as store:
        store.keep(ENTRY.model_copy(update={"at": old}), TEXTS)
        store.keep(LedgerEntry(run_id="new", node="draft"), TEXTS)
        store.put_pending(pending("old", at=old))
        store.put_pending(pending("new"))
        assert await store.delete(texts_older_than=7 * DAY) == 2
        assert [kept.run_id for kept in await texts_in(store)] == ["new"]
        assert [audit.run_id for audit in await store.pending()] == ["new"]
        assert len(await store.query()) == 2


async def test_a_pending_audit_outlives_its_process_and_is_done_once(url: str) -> None:
    at = datetime.now(UTC) - 5 * MINUTE
    async with open_store(url, texts="pending", tags={"app": "x"}) as store:
        store.put_pending(pending("old", at=at))
        store.put_pending(pending("new"))
    async with open_store(url, texts="pending") as one, open_store(url) as two:
        (claimed,) = await one.claim_pending(MINUTE)
        assert claimed == pending("old", at=at, tags={"app": "x"})
        assert await two.claim_pending(MINUTE) == await one.claim_pending(MINUTE) == []
        assert await two.claim_pending(MINUTE, lease=timedelta()) == [claimed]
        one.drop_pending("old")
        assert [audit.run_id for audit in await one.pending()] == ["new"]


def test_of_processes_that_claim_at_once_each_gets_others(url: str) -> None:
    store = open_store(url, texts="pending")
    for i in range(40):
        store.put_pending(pending(f"run-{i}"))
    store.close()
    claimed = [run for mine in claim_together(url, 2) for run in mine]
    assert sorted(claimed) == sorted(f"run-{i}" for i in range(40))


async def test_spending_has_in_it_what_was_just_appended(url: str) -> None:
    now = datetime.now(UTC)
    costs = [("1E-9", now), ("0.25", now), ("7", now - DAY)]
    async with open_store(url) as store:
        store.append(
            LedgerEntry(run_id="r", node="audit", cost_usd=Decimal(cost), at=at)
            for cost, at in costs
        )
        store.append([LedgerEntry(run_id="r", node="audit", assumed_usd=Decimal("0.5"))])
        store.append([LedgerEntry(run_id="r", node="draft", cost_usd=Decimal(1))])
        assert await store.spent("audit", now - MINUTE) == Amounts(
            measured=Decimal("0.250000001"), estimated=Decimal("0.5")
        )


async def test_texts_are_masked_like_notes() -> None:
    secret = Texts('[{"content":["mail ada@example.org"],"n":[1,null]}]', "key sk-abcdefgh123")
    async with open_store("memory://", texts="all", redact=mask_secrets) as store:
        entry = store.keep(ENTRY, secret)
        (kept,) = await texts_in(store)
    assert kept.texts == Texts('[{"content":["mail […]"],"n":[1,null]}]', "key […]")
    assert entry.prompt_hash == text_hash(secret.prompt)


async def test_an_audit_that_masking_would_change_is_not_kept() -> None:
    async with open_store("memory://", texts="pending", redact=mask_secrets) as store:
        store.put_pending(pending("secret", payload='{"question":"mail ada@example.org"}'))
        store.put_pending(
            pending("plain", payload='{"at":1764038579.1234567,"usd":"0.00012345678"}')
        )
        assert [audit.run_id for audit in await store.pending()] == ["plain"]


async def test_texts_whose_redaction_fails_are_not_kept() -> None:
    def fails(text: str) -> str:
        raise KeyError(text)

    async with open_store("memory://", texts="all", redact=fails) as store:
        store.keep(ENTRY, TEXTS)
        store.put_pending(pending())
        assert await texts_in(store) == await store.pending() == []
        assert [e.attempt_id for e in await store.query()] == ["call-1"]


async def test_texts_that_are_no_json_are_not_kept_unmasked() -> None:
    async with open_store("memory://", texts="all", redact=mask_secrets) as store:
        store.keep(ENTRY, Texts("sk-abcdefgh123", None))
        store.put_pending(pending(payload="sk-abcdefgh123"))
        assert await texts_in(store) == await store.pending() == []


def test_masking_leaves_dates_and_small_amounts_and_ends_soon() -> None:
    for text in ("on 2026-11-25", "0.00012345678 USD", "2026-11-25T02:43:00Z", "1234567"):
        assert mask_secrets(text) == text
    for text in ("4111 1111 1111 1111", "Nr.4111111111111111", "+49 170 1234567"):
        assert "1111" not in mask_secrets(text)
        assert "1234567" not in mask_secrets(text)
    assert SECRETS.search("x" * 300_000 + "1" * 300_000) is not None


async def test_a_refused_text_is_named_in_the_log_without_being_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refuses(MemoryBackend):
        async def write(self, batch: Batch) -> None:
            if batch.texts or batch.pending:
                raise ValueError("no room for texts")
            await super().write(batch)

    store = Store(Refuses(), texts="all")
    with caplog.at_level(logging.DEBUG, logger="cascade"):
        store.keep(ENTRY, TEXTS)
        store.put_pending(pending())
        with pytest.raises(LedgerError, match="no room") as caught:
            await store.flush()
    assert "call-1" in caplog.text
    for said in (caplog.text, str(caught.value)):
        assert QUESTION not in said
        assert ANSWER not in said
    await store.aclose()


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)])
async def test_a_durable_ledger_waits_for_the_disk(
    tmp_path: Path, durable: bool, level: int
) -> None:
    backend = SqlBackend(f"sqlite+aiosqlite:///{tmp_path}/ledger.db", durable=durable)
    await backend.open()
    found = await backend._transact(lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar())
    assert found == level
    await backend.aclose()


@pytest.mark.parametrize(("durable", "level"), [(False, "off"), (True, "on")])
async def test_a_durable_ledger_does_so_in_a_database_that_would_not(
    postgres_url: str, durable: bool, level: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    backend = SqlBackend(postgres_url.replace("sql:", "sql+asyncpg:"), durable=durable)
    await backend.open()
    found = await backend._transact(lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar())
    assert found == level
    await backend.aclose()


async def test_a_durable_ledger_keeps_entries_like_any_other(url: str) -> None:
    async with open_store(url, durable=True) as store:
        store.append([ENTRY])
        assert await store.query() == [ENTRY]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"texts": "some"}, "none, pending, all"),
        ({"hash_key": ""}, "hash_key is empty"),
        ({"durable": True}, "keeps nothing"),
    ],
)
def test_an_option_without_meaning_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store("memory://", **option)


async def test_a_recorder_knows_what_its_store_can_do() -> None:
    async with open_store("memory://") as store:
        assert isinstance(store, AuditStore)
        assert Recorder(store).store is store
        assert store.texts == "none"
    assert not isinstance(MemoryLedger(), AuditStore)
    assert Recorder().record(ENTRY, TEXTS) == ENTRY

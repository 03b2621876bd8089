"""`POST /v1/feedback`, by hand and through the official client of LangSmith."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langsmith import Client

from cascade.errors import ConfigurationError
from cascade.service.config import ServiceConfig
from cascade.service.lessons import keeper_of, memories_of
from cascade.teaching import Lesson
from tests.service.talking import ASKED, HELLO, Talk, talking

OTHER = [{"role": "user", "content": "hi again"}]
LESSONS = {"lessons": {"terms": {"openai:*": {"may_train": False, "source": "their terms"}}}}


async def asked(talk: Talk, secret: str | None = None, **body: Any) -> str:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    answer = await talk.chat(headers=headers, **body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["cascade"]["run_id"])


async def says(talk: Talk, secret: str | None = None, **body: Any) -> Any:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    headers["Content-Type"] = "application/json"
    return await talk.http.post("/v1/feedback", content=json.dumps(body), headers=headers)


async def lesson_of(talk: Talk, run_id: str) -> Lesson | None:
    keeper = talk.gateway.service.lessons
    assert keeper is not None
    await keeper.aclose()
    return await keeper.store.get(run_id)


async def test_what_a_client_says_is_kept_with_the_lesson(tmp_path: Path) -> None:
    async with talking(tmp_path, **LESSONS) as talk:
        run_id = await asked(talk, cascade={"tags": {"user": "ada"}})
        answer = await says(talk, run_id=run_id, correct=False, comment="Ring 0171 5552 8391.")
        assert answer.json() == {
            "run_id": run_id, "key": "correct", "by": "user", "changed": True
        }  # fmt: skip
        again = await says(talk, run_id=run_id, correct=False, comment="Ring 0171 5552 8391.")
        assert again.json()["changed"] is False
        lesson = await lesson_of(talk, run_id)
        assert lesson is not None
        assert (lesson.question, lesson.answer, lesson.user) == ("hi", HELLO, "ada")
        assert [it.comment for it in lesson.verdicts] == ["Ring […]."]
        assert lesson.terms.may_train is False
        assert [e.node for e in await talk.entries()].count("feedback") == 1


async def test_langsmiths_client_is_understood(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True, **LESSONS) as talk:
        secret = await talk.gateway.key()
        run_id = await asked(talk, secret)
        url = f"{talk.gateway.server.address}/v1"
        client = Client(api_url=url, api_key=secret, auto_batch_tracing=False)

        def judge(**said: Any) -> None:
            client.create_feedback(UUID(run_id), session_id=uuid4(), **said)

        await asyncio.to_thread(
            judge, key="correct", score=0.0, comment="no", correction={"answer": "4"}
        )
        await asyncio.to_thread(judge, key="tone", value="friendly", score=4.5)
        await asyncio.to_thread(judge, key="correct", score=True)
        lesson = await lesson_of(talk, run_id)
        assert lesson is not None
        said = {it.key: (it.score, it.value, it.comment, it.correction) for it in lesson.verdicts}
        assert said == {
            "correct": (1.0, None, None, None),
            "tone": (4.5, "friendly", None, None),
        }
        stranger = Client(api_url=url, api_key="csk_" + "x" * 43, auto_batch_tracing=False)
        with pytest.raises(Exception, match=r"401|[Aa]uth"):
            await asyncio.to_thread(
                stranger.create_feedback, UUID(run_id), "correct", score=1, session_id=uuid4()
            )


async def test_one_key_cannot_judge_the_runs_of_another(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True, **LESSONS) as talk:
        mine, other = await talk.gateway.key("mine"), await talk.gateway.key("other", admin=True)
        run_id = await asked(talk, mine)
        refused = await says(talk, other, run_id=run_id, correct=False)
        unknown = await says(talk, other, run_id=str(uuid4()), correct=False)
        assert refused.status_code == unknown.status_code == 404
        error, of_unknown = (answer.json()["error"] for answer in (refused, unknown))
        assert error["code"] == of_unknown["code"] == "run_not_found"
        # Nor is it told whether there is such a run.
        words = [re.sub(r"'.*?'", "", it["message"], count=1) for it in (error, of_unknown)]
        assert words[0] == words[1]
        lesson = await lesson_of(talk, run_id)
        assert lesson is not None
        assert lesson.verdicts == ()
        assert (await says(talk, mine, run_id=run_id, correct=False)).status_code == 200
        assert (await says(talk, run_id=run_id, correct=False)).status_code == 401


async def test_a_client_cannot_take_the_tag_of_a_key(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True, **LESSONS) as talk:
        mine, other = await talk.gateway.key("mine"), await talk.gateway.key("other")
        keys = await talk.gateway.in_loop(talk.gateway.service.keys.list())
        run_id = await asked(talk, mine, cascade={"tags": {"key": keys[1].id}})
        assert (await says(talk, other, run_id=run_id, correct=True)).status_code == 404


async def test_a_keys_rate_holds_for_feedback_too(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True) as talk:
        secret = await talk.gateway.key(per_minute=1)
        run_id = await asked(talk, secret)
        answer = await says(talk, secret, run_id=run_id, correct=True)
        assert answer.status_code == 429
        assert "Retry-After" in answer.headers


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({}, "missing_parameter", "run_id"),
        ({"run_id": "x"}, "invalid_input", "says nothing"),
        ({"run_id": "x", "score": 7}, "invalid_input", "score=7"),
        ({"run_id": "x", "correct": "maybe"}, "invalid_value", "correct"),
        ({"run_id": "x", "correct": True, "surprise": 1}, "invalid_value", "surprise"),
        ({"run_id": "x", "correct": True, "extra": {}}, "unsupported_parameter", "extra"),
        ({"run_id": "x", "comment": "\ud800"}, "invalid_input", "comment"),
    ],
)
async def test_what_has_no_meaning_is_refused_by_its_name(
    tmp_path: Path, body: dict[str, Any], code: str, words: str
) -> None:
    async with talking(tmp_path) as talk:
        answer = await says(talk, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert words in answer.json()["error"]["message"]


async def test_without_lessons_verdicts_go_to_the_ledger_and_words_are_refused(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path) as talk:
        assert talk.gateway.service.lessons is None
        run_id = await asked(talk)
        refused = await says(talk, run_id=run_id, correct=False, comment="no")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "feedback_not_kept")
        assert (await says(talk, run_id=run_id, correct=False)).json()["changed"] is True
        assert [e.signals for e in await talk.entries() if e.node == "feedback"] == [{"wrong": 1.0}]


async def test_without_a_ledger_there_is_no_place_for_feedback(tmp_path: Path) -> None:
    async with talking(tmp_path, ledger=None) as talk:
        run_id = await asked(talk)
        answer = await says(talk, run_id=run_id, correct=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "feedback_not_kept")


async def test_a_cascade_may_keep_no_lessons_where_others_do(tmp_path: Path) -> None:
    async with talking(tmp_path, cascade={"lessons": False}, **LESSONS) as talk:
        assert await lesson_of(talk, await asked(talk)) is None


async def test_lessons_may_have_a_database_of_their_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lessons.db"
    async with talking(tmp_path, lessons={"url": url}, ledger=None) as talk:
        run_id = await asked(talk, messages=ASKED)
        assert (await says(talk, run_id=run_id, correct=True, comment="yes")).status_code == 200
        assert await lesson_of(talk, run_id) is not None
    assert (tmp_path / "lessons.db").exists()


async def test_whom_openais_clients_name_is_the_user_of_a_lesson(tmp_path: Path) -> None:
    async with talking(tmp_path, **LESSONS) as talk:
        named = await lesson_of(talk, await asked(talk, user="ada"))
        await asked(talk)  # an accepted draft
        tagged = await lesson_of(
            talk, await asked(talk, user="ada", messages=OTHER, cascade={"tags": {"user": "bob"}})
        )
    assert named is not None
    assert tagged is not None
    assert (named.user, tagged.user) == ("ada", "bob")


async def test_without_lessons_the_ledger_does_not_learn_who_asked(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        await asked(talk, user="ada")
        store = talk.gateway.service.store
        assert store is not None
        stored = [item async for item in store.stored()]
    assert all("user" not in item.tags for item in stored)


@pytest.mark.parametrize("store", [None, False])
async def test_what_a_client_does_not_want_stored_is_no_lesson(
    tmp_path: Path, store: bool | None
) -> None:
    async with talking(tmp_path, **LESSONS) as talk:
        said = {} if store is None else {"store": store}
        answer = await talk.post("/v1/responses", input="hi", **said)
        run_id = answer.headers["x-cascade-run-id"]
        assert (await lesson_of(talk, run_id) is None) is (store is False)


async def test_a_cascade_has_a_memory_of_its_own_lessons(tmp_path: Path) -> None:
    async with talking(tmp_path, cascade={"memory": True, "audit_rate": 0.2}, **LESSONS) as talk:
        [served] = talk.gateway.service.served.values()
        memory = served.cascade.options["memory"]
        before = await talk.gateway.in_loop(memory.near("hi"))
        lesson = await lesson_of(talk, await asked(talk))
        near = await talk.gateway.in_loop(memory.near("hi"))
    assert (before, near) == ([], [lesson])


async def test_a_memory_without_lessons_is_refused() -> None:
    config = ServiceConfig.model_validate(
        {"cascades": {"support": {"tiers": [{"model": "a:b"}, {"model": "c:d"}], "memory": True}}}
    )
    with pytest.raises(ConfigurationError, match=r"cascades\.support\.memory shows lessons"):
        memories_of(config, keeper_of(config))

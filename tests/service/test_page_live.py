"""What happens on the page while one looks: arriving requests, and the playground."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from cascade.models.base import guard
from cascade.service.keys import Keys
from cascade.service.page import events as events_module
from tests.servers import replies
from tests.service.page_world import World, events_of, visitor


@pytest.fixture(autouse=True)
def _the_models_are_a_server_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)


@pytest.fixture
def client(world: World) -> Generator[httpx.Client]:
    with visitor(world) as made:
        yield made


def play(client: httpx.Client, question: str, **more: Any) -> httpx.Response:
    return client.post("/page/api/play", json={"model": "support", "question": question, **more})


class TestEvents:
    async def watch(
        self, world: World, asked: int, after: str = "", header: str | None = None
    ) -> list[tuple[str, Any]]:
        """The first events, of which so many are waited for."""
        headers = {} if header is None else {"Last-Event-ID": header}
        async with httpx.AsyncClient(base_url=world.url, timeout=30) as client:
            await client.post("/login", data={"key": world.admin})
            async with client.stream(
                "GET", "/page/api/events", params={"after": after}, headers=headers
            ) as stream:
                text = ""
                async for piece in stream.aiter_text():
                    text += piece
                    if len(events_of(text)) >= asked:
                        break
        return events_of(text)

    async def test_a_finished_request_is_told_with_its_steps(self, quiet: World) -> None:
        watching = asyncio.create_task(self.watch(quiet, 1))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(self.ask, quiet, "a hard question")
        ((name, told),) = await watching
        assert (name, told["outcome"], told["cascade"]) == ("request", "escalated", "support")
        assert [step["node"] for step in told["steps"]] == [
            "draft", "self_check", "verify", "expert",
        ]  # fmt: skip
        assert "hard" not in json.dumps(told)

    def ask(self, world: World, question: str) -> None:
        with visitor(world) as client:
            assert "done" in dict(events_of(play(client, question).text))

    async def test_who_comes_back_gets_what_was_missed(self, quiet: World) -> None:
        for question in ("one", "two", "three"):
            await asyncio.to_thread(self.ask, quiet, question)
        with visitor(quiet) as client:
            epoch = client.get("/page/api/requests").json()["epoch"]
        assert [told["number"] for _, told in await self.watch(quiet, 1, f"{epoch}-2")] == [3]
        missed = await self.watch(quiet, 2, "", header=f"{epoch}-1")
        assert [told["number"] for _, told in missed] == [2, 3]

    @pytest.mark.parametrize("after", ["", "00000000-2", "x", "-", "\u0663"])
    async def test_numbers_of_before_a_restart_mean_nothing(self, quiet: World, after: str) -> None:
        await asyncio.to_thread(self.ask, quiet, "one")
        assert [told["number"] for _, told in await self.watch(quiet, 1, after)] == [1]

    async def test_so_many_streams_and_no_more(
        self, quiet: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events_module, "MOST_WATCHING", 0)
        with visitor(quiet) as client:
            answer = client.get("/page/api/events")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")

    async def test_a_silent_stream_says_that_it_is_there(
        self, quiet: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events_module, "BEAT_S", 0.02)
        monkeypatch.setattr(events_module, "LOOK_S", 0.02)
        async with httpx.AsyncClient(base_url=quiet.url) as client:
            await client.post("/login", data={"key": quiet.admin})
            async with client.stream("GET", "/page/api/events") as stream:
                async for piece in stream.aiter_text():
                    if "still here" in piece:
                        break
        assert "still here" in piece

    @pytest.mark.parametrize("why", ["logout", "draining", "database"])
    async def test_a_stream_ends_with_its_session_and_with_the_service(
        self, quiet: World, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = quiet.app.state.service
        async with httpx.AsyncClient(base_url=quiet.url, timeout=30) as client:
            await client.post("/login", data={"key": quiet.admin})
            async with client.stream("GET", "/page/api/events") as stream:
                pieces = stream.aiter_text()
                assert "retry" in await anext(pieces)
                if why == "logout":
                    await client.post("/logout")
                elif why == "draining":
                    monkeypatch.setattr(type(service), "draining", True)
                else:
                    monkeypatch.setattr("cascade.service.page.desk.KNOWN_FOR_S", 0.0)
                    monkeypatch.setattr(Keys, "get", self._down)
                assert [piece async for piece in pieces] == []
        assert quiet.app.state.page_desk.watching == 0

    @staticmethod
    async def _down(*_: object) -> None:
        raise events_module.UnavailableError("the database cannot be reached")


class TestPlayground:
    def test_a_hard_question_is_drafted_withdrawn_and_answered(self, client: httpx.Client) -> None:
        told = events_of(play(client, "a hard question").text)
        order = list(dict.fromkeys(name for name, _ in told))
        done = dict(told)["done"]
        assert order == ["provisional", "decided", "retracted", "token", "done"]
        assert (done["tier"], done["escalated"]) == ("large", True)
        assert dict(told)["decided"]["action"] == "escalate"
        assert float(done["cost_usd"]) > 0

    def test_an_accepted_draft_is_the_answer(self, client: httpx.Client) -> None:
        told = events_of(play(client, "an easy question").text)
        assert [name for name, _ in told if name != "provisional"] == ["decided", "done"]
        assert dict(told)["done"]["answer"] == "".join(
            item["text"] for name, item in told if name == "provisional"
        )

    def test_its_requests_are_in_the_ledger_under_a_tag_of_their_own(self, quiet: World) -> None:
        with visitor(quiet) as client:
            play(client, "an easy question")
            report = client.get("/page/api/report", params={"tag": "app=playground"}).json()
        assert report["report"]["requests"] == 1

    def test_a_failing_model_is_told_without_a_trace(self, quiet: World) -> None:
        quiet.upstream.will(*[replies.error(400, "the model is broken")] * 4)
        with visitor(quiet) as client:
            answer = play(client, "a question")
        assert answer.status_code == 400
        assert "Traceback" not in answer.text

    def test_a_large_model_that_breaks_in_the_middle_ends_the_stream_with_an_error(
        self, quiet: World
    ) -> None:
        with visitor(quiet) as client:
            play(client, "warm up")
            unsure = [{"token": "x", "logprob": -3.0}]
            draft = [
                replies.openai_delta(content="x", logprobs=unsure),
                replies.openai_delta("stop"),
            ]
            broken = replies.sse(
                [replies.openai_delta(content=word) for word in ("It ", "is ")],
                done=False,
                ending="drop",
            )
            quiet.upstream.will(replies.sse(draft), *[broken] * 4)
            told = events_of(play(client, "a question").text)
        assert [name for name, _ in told][-1] == "error"
        assert dict(told)["error"]["message"]

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"model": "nobody", "question": "x"}, 404),
            ({"model": "support", "question": ""}, 400),
            ({"model": "support", "question": "x" * 50_001}, 400),
            ({"model": "support", "question": "x", "more": 1}, 400),
            ({"question": "x"}, 400),
        ],
    )
    def test_what_cannot_be_asked_is_refused(
        self, client: httpx.Client, body: dict[str, Any], status: int
    ) -> None:
        answer = client.post("/page/api/play", json=body)
        assert answer.status_code == status
        assert answer.json()["error"]
        assert "content-security-policy" in answer.headers

    def test_an_exhausted_budget_answers_402(self, quiet: World) -> None:
        admin = made_key(quiet, "poor", admin=True, day_usd=Decimal("0.000000001"))
        with httpx.Client(base_url=quiet.url) as client:
            client.post("/login", data={"key": admin})
            assert play(client, "a question").status_code == 402
        assert quiet.upstream.received == []

    def test_a_key_that_has_asked_too_often_waits(self, quiet: World) -> None:
        admin = made_key(quiet, "slow", admin=True, per_minute=1)
        with httpx.Client(base_url=quiet.url) as client:
            client.post("/login", data={"key": admin})
            assert play(client, "one").status_code == 200
            again = play(client, "two")
        assert again.status_code == 429
        assert int(again.headers["retry-after"]) > 0

    def test_a_service_that_shuts_down_takes_no_question(
        self, quiet: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with visitor(quiet) as client:
            monkeypatch.setattr(type(quiet.app.state.service), "draining", True)
            assert play(client, "one").status_code == 503


def made_key(world: World, name: str, **settings: Any) -> str:
    async def make() -> str:
        keys = Keys(f"sqlite:///{world.folder / 'ledger.db'}")
        _, secret = await keys.create(name, **settings)
        await keys.aclose()
        return secret

    return asyncio.run(make())

"""What the page shows as JSON, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade.api import Cascade
from cascade.errors import LedgerError
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.policies import CertifiedPolicy, EconomicPolicy, ThresholdPolicy
from cascade.report import make_report
from cascade.service import ServiceError
from cascade.service.page import reading as reading_module
from cascade.service.page.describing import describe
from cascade.service.page.files import TYPES, names, read_text
from cascade.service.page.reading import Asked, Shelf
from cascade.state import Certificate
from cascade.testing import ScriptedModel
from cascade.tiers import Tier
from tests.report.ledgers import Story, store_of
from tests.service import calibrated
from tests.service.page_world import World, visitor

SMALL_PAGE = 60_000
"""Bytes of the page with its style and scripts; a third of it on the way."""


@pytest.fixture(autouse=True)
def _the_models_are_a_server_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)


@pytest.fixture
def client(world: World) -> Generator[httpx.Client]:
    with visitor(world) as made:
        yield made


class TestFigures:
    def test_the_report_is_that_of_the_command_line(
        self, client: httpx.Client, world: World
    ) -> None:
        async def make() -> Any:
            async with open_store(f"sqlite:///{world.folder / 'ledger.db'}") as store:
                return await make_report(store)

        shown = client.get("/page/api/report").json()
        made = json.loads(asyncio.run(make()).model_dump_json())
        assert shown["report"]["saving"] == made["saving"]
        assert shown["report"]["quality"] == made["quality"]
        assert shown["report"]["verified_usd"] == made["verified_usd"] > 0
        assert shown["words"]["claim"].startswith("Verified net saving")

    def test_a_tag_and_a_period_select_requests(self, client: httpx.Client) -> None:
        def asked(**query: Any) -> int:
            report = client.get("/page/api/report", params=query).json()["report"]
            return int(report["requests"])

        team, other = asked(tag="team=support"), asked(tag="team=search")
        assert asked() == team + other
        assert asked(tag="team=nobody") == 0
        assert 0 < asked(days=7) < asked(days=14) < asked()

    @pytest.mark.parametrize(
        "query", ["tag=team", "tag==x", "days=nan", "days=-1", "days=x", "days=1e9"]
    )
    def test_a_question_without_a_meaning_is_refused_with_the_headers(
        self, client: httpx.Client, query: str
    ) -> None:
        answer = client.get(f"/page/api/report?{query}")
        assert answer.status_code == 400
        assert query.partition("=")[0] in answer.json()["error"]
        assert "content-security-policy" in answer.headers

    def test_thresholds_agree_with_the_report_at_the_decisions_made(
        self, client: httpx.Client
    ) -> None:
        report = client.get("/page/api/report").json()["report"]
        found = client.get("/page/api/thresholds").json()
        assert found["thresholds"]["made"]["saving"] == report["saving"]["saving"]
        assert found["thresholds"]["made"]["escalated"] == report["escalation"]
        assert found["reliability"] == report["reliability"]

    def test_an_empty_ledger_has_figures_of_nothing(self, quiet: World) -> None:
        with visitor(quiet) as client:
            assert client.get("/page/api/report").json()["report"]["status"] == "empty"
            assert client.get("/page/api/thresholds").json()["thresholds"] is None
            assert client.get("/page/api/requests").json()["requests"] == []

    def test_what_runs_here_is_listed(self, client: httpx.Client) -> None:
        shown = client.get("/page/api/service").json()
        (cascade,) = shown["cascades"]
        assert (cascade["name"], cascade["threshold"]) == ("support", 0.8)
        assert [tier["model"] for tier in cascade["tiers"]] == ["openai:small", "openai:gpt-5.1"]
        assert shown["login"]
        assert cascade["calibration"] is None


class TestReading:
    async def test_one_reading_serves_all_who_ask_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await store_of([Story().draft().accept(rate=0.5)])
        shelf = Shelf(store)
        first, second = await asyncio.gather(shelf.read(Asked()), shelf.read(Asked()))
        assert first is second
        assert await shelf.read(Asked()) is first
        monkeypatch.setattr(reading_module, "FRESH_S", 0.0)
        monkeypatch.setattr(reading_module, "IDLE", 0.0)
        assert await shelf.read(Asked()) is not first
        await store.aclose()

    async def test_a_reading_that_failed_is_tried_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await store_of([Story().draft().accept(rate=0.5)])
        shelf = Shelf(store)

        def broken(*_: Any) -> None:
            raise LedgerError("the disk is gone")

        with monkeypatch.context() as patched:
            patched.setattr(store, "stored", broken)
            with pytest.raises(LedgerError, match="disk"):
                await shelf.read(Asked())
        assert (await shelf.read(Asked())).report.requests == 1
        await store.aclose()

    async def test_who_goes_away_takes_the_reading_from_nobody(self) -> None:
        store = await store_of([Story().draft().accept(rate=0.5)])
        shelf = Shelf(store)
        gone = asyncio.create_task(shelf.read(Asked()))
        stays = asyncio.create_task(shelf.read(Asked()))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).report.requests == 1
        await store.aclose()

    async def test_only_the_last_questions_are_kept(self) -> None:
        store = await store_of([Story().draft().accept(rate=0.5)])
        shelf = Shelf(store)
        first = await shelf.read(Asked())
        for days in range(1, reading_module.MOST_KEPT + 1):
            await shelf.read(Asked(days=days))
        assert await shelf.read(Asked()) is not first
        await store.aclose()

    async def test_without_a_ledger_the_way_to_one_is_named(self) -> None:
        with pytest.raises(ServiceError, match="set `ledger`") as caught:
            await Shelf(None).read(Asked())
        assert caught.value.code == "no_ledger"

    async def test_without_numpy_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading_module, "find_spec", lambda name: None)
        store = await store_of([])
        with pytest.raises(ServiceError, match="calibrate") as caught:
            await Shelf(store).read(Asked())
        assert caught.value.status == 501
        await store.aclose()


class TestFiles:
    def test_a_browser_that_has_a_file_gets_nothing_again(self, world: World) -> None:
        first = httpx.get(f"{world.url}/page/static/main.js")
        again = httpx.get(first.url, headers={"If-None-Match": first.headers["etag"]})
        assert first.headers["content-type"].startswith("text/javascript")
        assert (again.status_code, again.content) == (304, b"")

    def test_files_travel_packed_to_whoever_takes_that(self, world: World) -> None:
        url = f"{world.url}/page/static/main.js"
        packed, plain = httpx.get(url), httpx.get(url, headers={"Accept-Encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.text == plain.text == read_text("main.js")

    @pytest.mark.parametrize("name", ["page.html", "nothing.js", "..%2f__init__.py", ".."])
    def test_nothing_else_is_served(self, world: World, name: str) -> None:
        assert httpx.get(f"{world.url}/page/static/{name}").status_code == 404

    def test_the_page_is_small_and_names_no_other_host(self) -> None:
        texts = [read_text(name) for name in (*names(), "page.html")]
        assert sum(len(text.encode()) for text in texts) < SMALL_PAGE
        for text in texts:
            rest = text.replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in rest
            assert "https://" not in rest

    def test_no_script_makes_markup_of_text(self) -> None:
        scripts = [read_text(name) for name in names() if name.endswith(".js")]
        words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        assert not [word for word in words for script in scripts if word in script]
        assert TYPES.keys() == {"css", "js", "svg"}

    def test_no_markup_has_script_or_style_of_its_own(self) -> None:
        for name in ("page.html", "login.html"):
            text = read_text(name)
            assert "style=" not in text
            assert " on" not in text.replace(" on this machine", "").replace(" on your key", "")
            assert "<script>" not in text


class TestDescribing:
    def models(self) -> list[ScriptedModel]:
        return [ScriptedModel(["small"]), ScriptedModel(["large"])]

    def test_the_threshold_is_found_under_what_stands_around_a_policy(self) -> None:
        cascade = Cascade(*self.models(), policy=ThresholdPolicy(0.7), deadline=5)
        assert describe("support", cascade)["threshold"] == 0.7

    def test_a_certificate_has_a_threshold_and_a_price_of_errors_has_none(self) -> None:
        proved = Certificate(
            threshold=0.9, max_harm=0.05, delta=0.1, n=100, errors=0, coverage=0.5, bound=0.03
        )
        certified = Cascade(*self.models(), policy=CertifiedPolicy(proved))
        weighed = Cascade(*self.models(), policy=EconomicPolicy(price_of_error=1.0))
        assert describe("a", certified)["threshold"] == 0.9
        assert describe("b", weighed)["threshold"] is None

    def test_a_calibration_says_how_good_it_is(self, tmp_path: Path) -> None:
        calibrated.write(tmp_path / "support.json", 0.9)
        small = Tier("openai:small", api_key="-", base_url="http://127.0.0.1:1/v1")
        cascade = Cascade(small, self.models()[1], calibrator=tmp_path / "support.json")
        found = describe("support", cascade)["calibration"]
        assert found["quality"].n == 300
        assert found["labels"] == "references"

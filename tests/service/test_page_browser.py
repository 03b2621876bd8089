"""The page in a real browser: what a person sees, by mouse, by keyboard, on a phone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from importlib.resources import files
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.service import create_app
from tests.report.ledgers import Story
from tests.service.chromium import NoBrowserError, Visitor, browser, browser_path, visiting
from tests.service.page_world import (
    LARGE_ANSWER,
    SMALL_ANSWER,
    Upstream,
    World,
    running,
    settings,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")  # the browser is one for all

EVIL = "<img src=x onerror=alert(1)><b>team</b>"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module", autouse=True)
def _a_browser() -> None:
    try:
        browser_path()
    except NoBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _the_models_are_a_server_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(_a_browser: None) -> AsyncGenerator[Any]:
    async with browser() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(opened: Any, world: World) -> AsyncGenerator[Visitor]:
    """Somebody who has logged in and sees figures; whatever the page did wrong fails the test."""
    async with visiting(opened, world.url) as made:
        await made.log_in(world.admin)
        await made.page.locator("#threshold").wait_for()
        yield made
        assert made.complaints == []


async def ask(world: World, question: str) -> None:
    async with httpx.AsyncClient() as client:
        answered = await client.post(
            f"{world.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {world.key}"},
            json={"model": "support", "messages": [{"role": "user", "content": question}]},
        )
    answered.raise_for_status()


async def sideways(page: Any) -> int:
    """By how many pixels the page is wider than the screen."""
    return int(
        await page.evaluate("document.documentElement.scrollWidth - document.body.clientWidth")
    )


async def widest(page: Any) -> list[str]:
    """What reaches beyond the right edge of the screen."""
    return list(
        await page.evaluate(
            """[...document.querySelectorAll("body *")]
            .filter(x => x.getBoundingClientRect().right > document.body.clientWidth)
            .map(x => x.outerHTML.slice(0, 80) + " " + x.getBoundingClientRect().right)"""
        )
    )


async def findings(page: Any) -> list[str]:
    """What axe-core finds serious or critical."""
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    await page.evaluate(source)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{item['id']}: {item['nodes'][0]['html'][:160]} {item['nodes'][0]['failureSummary']}"
        for item in found["violations"]
        if item["impact"] in ("serious", "critical")
    ]


async def test_the_headline_has_its_interval_its_quality_and_a_verdict_in_words(
    visitor: Visitor,
) -> None:
    page = visitor.page
    assert (await page.locator("#headline").inner_text()).startswith("$")
    assert "with 95 % confidence" in await page.locator("#interval").inner_text()
    assert (await page.locator("#quality").inner_text()).startswith("at most")
    assert "It saves money" in await page.locator("#verdict").inner_text()


async def test_a_wrong_key_is_told_so_and_a_right_one_opens_the_page(
    opened: Any, world: World
) -> None:
    async with visiting(opened, world.url) as visitor:
        page = visitor.page
        await page.goto(f"{world.url}/")
        await page.get_by_label("Admin key").fill("csk_wrong")
        await page.keyboard.press("Enter")
        assert "no valid key" in await page.get_by_role("alert").inner_text()
        await visitor.log_in(world.admin)
        await page.get_by_role("button", name="Log out").click()
        await page.wait_for_url(f"{world.url}/login")
        await page.goto(f"{world.url}/")
        assert page.url == f"{world.url}/login"


async def test_a_request_arrives_by_itself_with_its_way_through_the_graph(
    visitor: Visitor, world: World
) -> None:
    page = visitor.page
    await page.locator("#live", has_text="live").wait_for()
    before = await page.locator("#list > li[data-run]").count()
    await ask(world, "a hard question")
    arrived = page.locator("#list > li.new").first
    await arrived.wait_for()
    words = await arrived.inner_text()
    assert "escalated" in words
    steps = [await step.inner_text() for step in await arrived.locator(".step b").all()]
    assert steps == ["draft", "check", "verify", "large model"]
    assert await page.locator("#list > li[data-run]").count() == before + 1


async def test_the_slider_moves_by_arrow_keys_and_says_what_that_means(visitor: Visitor) -> None:
    page = visitor.page
    slider = page.locator("#threshold")
    await slider.focus()
    first = await slider.get_attribute("aria-valuetext")
    escalated = await page.locator("#outcome dd").first.inner_text()
    for _ in range(6):
        await page.keyboard.press("ArrowRight")
    later = await slider.get_attribute("aria-valuetext")
    assert first != later
    assert "escalated, cost $" in str(later)
    assert await page.locator("#outcome dd").first.inner_text() != escalated
    await page.keyboard.press("Home")
    assert str(await slider.get_attribute("aria-valuetext")).startswith("0.00: 0.0 % escalated")


async def test_the_slider_keeps_its_place_and_the_keyboard_when_figures_come_anew(
    visitor: Visitor, world: World
) -> None:
    page = visitor.page
    slider = page.locator("#threshold")
    await slider.focus()
    await page.keyboard.press("End")
    async with page.expect_response(lambda answer: "/page/api/thresholds" in answer.url):
        await ask(world, "one more")
    await page.wait_for_timeout(300)
    assert await page.evaluate("document.activeElement.id") == "threshold"
    assert await page.locator("#threshold-value").inner_text() == "1.00"


async def test_the_slider_is_not_taken_from_a_hand_that_drags_it(
    visitor: Visitor, world: World
) -> None:
    page = visitor.page
    slider = page.locator("#threshold")
    await slider.evaluate("slider => slider.dataset.mark = 'held'")
    await slider.scroll_into_view_if_needed()
    place = await slider.bounding_box()
    assert place is not None
    await page.mouse.move(place["x"] + place["width"] / 3, place["y"] + place["height"] / 2)
    await page.mouse.down()
    async with page.expect_response(lambda answer: "/page/api/thresholds" in answer.url):
        await ask(world, "one more")
    await page.wait_for_timeout(300)
    assert await slider.get_attribute("data-mark") == "held"
    await page.mouse.up()


async def test_the_playground_shows_draft_decision_and_answer_as_they_happen(
    visitor: Visitor,
) -> None:
    page = visitor.page
    await visitor.ask("a slow and hard question")
    draft = page.locator("#steps [data-kind=draft].open .text")
    await draft.wait_for()
    assert SMALL_ANSWER.startswith((await draft.inner_text()).strip())
    assert await page.locator("#steps [data-kind=decided]").count() == 0
    await page.locator("#steps [data-kind=decided] .meter").wait_for()
    assert "escalated" in await page.locator("#steps [data-kind=decided] h4").inner_text()
    await page.locator("#state", has_text="Done: answered by large").wait_for()
    assert await page.locator("#steps .withdrawn .text").inner_text() == SMALL_ANSWER
    assert await page.locator("#steps [data-kind=answer] .text").inner_text() == LARGE_ANSWER


async def test_cancel_ends_the_run_and_the_model_hears_of_it(
    visitor: Visitor, world: World
) -> None:
    page = visitor.page
    asked = len(world.upstream.received)
    await visitor.ask("a slow question")
    await page.locator("#steps [data-kind=draft] .text", has_text="Canberra").wait_for()
    await page.get_by_role("button", name="Cancel").click()
    await page.locator("#state", has_text="Cancelled").wait_for()
    left = world.upstream.received[asked].left
    assert await asyncio.to_thread(left.wait, 10)
    await page.get_by_role("button", name="Ask", disabled=False).wait_for()


async def test_dark_and_light_follow_the_system_until_somebody_chooses(
    opened: Any, world: World
) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    async with visiting(opened, world.url, color_scheme="dark") as visitor:
        await visitor.log_in(world.admin)
        page = visitor.page
        dark = await page.evaluate(back)
        await page.get_by_role("button", name="Light").click()
        light = await page.evaluate(back)
        await page.reload()
        assert dark == "rgb(18, 19, 23)"
        assert light == await page.evaluate(back) == "rgb(247, 247, 245)"


async def test_a_phone_does_not_scroll_sideways(opened: Any, world: World) -> None:
    async with visiting(opened, world.url, **PHONE) as visitor:
        page = visitor.page
        await visitor.log_in(world.admin)
        await page.locator("#threshold").wait_for()
        await ask(world, "a hard question")
        await page.locator("#list > li[data-run]").first.wait_for()
        for name in await page.locator("#by option").all_inner_texts():
            await page.locator("#by").select_option(label=name)
            assert await sideways(page) == 0, (name, await widest(page))
        await page.locator("#days-table summary").click()
        await visitor.ask("a hard question")
        await page.locator("#state", has_text="Done").wait_for()
        assert await sideways(page) == 0
        assert visitor.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", [{}, PHONE], ids=["desk", "phone"])
async def test_axe_finds_nothing_serious(
    opened: Any, world: World, theme: str, screen: dict[str, Any]
) -> None:
    context = {"color_scheme": theme, "bypass_csp": True, "reduced_motion": "reduce", **screen}
    async with visiting(opened, world.url, **context) as visitor:
        page = visitor.page
        await page.goto(f"{world.url}/login")
        assert await findings(page) == []
        await visitor.log_in(world.admin)
        await page.locator("#threshold").wait_for()
        await ask(world, "a hard question")
        await visitor.ask("a hard question")
        await page.locator("#state", has_text="Done").wait_for()
        await page.locator("#days-table summary").click()
        await page.wait_for_timeout(500)
        assert await findings(page) == []


async def test_what_is_shown_of_requests_is_text_and_never_markup(
    opened: Any, quiet: World
) -> None:
    url = f"sqlite:///{quiet.folder / 'ledger.db'}"
    async with open_store(url, tags={"key": EVIL}) as store:
        store.append(Story().draft(model=EVIL).accept(node="verify").entries)
    async with visiting(opened, quiet.url) as visitor:
        page = visitor.page
        await visitor.log_in(quiet.admin)
        await page.locator("#period").select_option("0")
        for by in ("model", "tag:key"):
            await page.locator(f"#by option[value='{by}']").wait_for(state="attached")
            await page.locator("#by").select_option(by)
            await page.locator("#table", has_text=EVIL).wait_for()
        await visitor.ask(EVIL)
        await page.locator("#state", has_text="Done").wait_for()
        assert await page.locator("main img").count() == 0
        assert visitor.complaints == []


async def test_an_empty_ledger_says_what_to_do_next(opened: Any, quiet: World) -> None:
    async with visiting(opened, quiet.url, **PHONE) as visitor:
        page = visitor.page
        await visitor.log_in(quiet.admin)
        await page.get_by_text("No requests in this period").wait_for()
        assert f"{quiet.url}/v1" in await page.locator("#bill pre").inner_text()
        await page.get_by_text("No requests yet since the service started").wait_for()
        await page.get_by_text("No draft has been decided about yet").wait_for()
        assert await sideways(page) == 0
        assert visitor.complaints == []


async def test_without_a_ledger_the_page_says_how_to_keep_one(opened: Any) -> None:
    with (
        Upstream() as upstream,
        running(create_app(settings(upstream, None, auth=False))) as url,
    ):
        async with visiting(opened, url) as visitor:
            page = visitor.page
            await page.goto(f"{url}/")
            await page.get_by_text("set `ledger` in its configuration").wait_for()
            await page.get_by_text("no login").wait_for()
            await page.locator("#whatif").wait_for(state="hidden")
            await visitor.ask("a hard question")
            await page.locator("#state", has_text="Done: answered by large").wait_for()
            refused = [c for c in visitor.complaints if "404" not in c]
            assert refused == []


async def test_a_keyboard_gets_everywhere_and_skips_the_head_of_the_page(visitor: Visitor) -> None:
    page = visitor.page
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    reached = set()
    for _ in range(60):
        await page.keyboard.press("Tab")
        reached.add(await page.evaluate("document.activeElement.id"))
    assert {"by", "threshold", "model", "question", "send"} <= reached


async def test_after_the_end_of_a_session_the_page_goes_to_the_login(
    visitor: Visitor,
) -> None:
    page = visitor.page
    await page.context.clear_cookies()
    await page.locator("#period").select_option("7")
    await page.wait_for_url(f"{visitor.url}/login")
    visitor.complaints = [c for c in visitor.complaints if "401" not in c]

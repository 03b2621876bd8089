"""The page in a real browser: what a person sees on a desk and on a phone, by mouse and keys."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.acceptance import commands
from tests.acceptance.test_22_gateway import Served, serving
from tests.acceptance.upstream import Answer, Seen
from tests.browser.chromium import NoBrowserError, accessibility, browser, log_in

pytestmark = pytest.mark.heavy

EVIL = "<img src=x onerror=alert(1)>" + "a-team-with-a-long-name-" * 6
REQUESTS = 30
DESK, PHONE = {"width": 1_400, "height": 900}, {"width": 390, "height": 844}


@dataclass
class World:
    """A service with some requests behind it, and its admin key."""

    served: Served
    admin: str


@dataclass
class Visitor:
    """Somebody who has logged in, and what the browser complained about."""

    page: Any
    world: World
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)


def unsure(seen: Seen) -> Answer:
    """A draft that is more or less sure, by the number of its question."""
    return Answer("Canberra", p=0.5 + int(seen.last) / (2 * REQUESTS), tokens=(100, 10))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("browser")) as served:
        served.upstream.says("small", unsure)
        served.upstream.says("large", Answer("It is Canberra", tokens=(100, 10)))
        admin = commands.cascade("keys", "create", served.config, "boss", "--admin", "--json").json
        headers = {"Authorization": f"Bearer {served.key(EVIL)['secret']}"}
        for number in range(REQUESTS):
            asked = [{"role": "user", "content": str(number)}]
            body = {"model": "support", "messages": asked}
            address = f"{served.url}/v1/chat/completions"
            httpx.post(address, headers=headers, json=body).raise_for_status()
        yield World(served, admin["secret"])


@pytest.fixture(scope="module")
def chromium(world: World) -> Iterator[Any]:
    del world  # made before: Playwright's own loop runs in this thread from here on
    try:
        with browser() as opened:
            yield opened
    except NoBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["light-desk", "dark-desk", "light-phone", "dark-phone"])
def visitor(request: pytest.FixtureRequest, chromium: Any, world: World) -> Iterator[Visitor]:
    scheme, _, place = request.param.partition("-")
    screen = {"viewport": DESK if place == "desk" else PHONE, "color_scheme": scheme}
    with chromium.new_context(**screen) as context:
        made = Visitor(context.new_page(), world)
        made.page.on("request", lambda asked: made.hosts.add(asked.url.split("/")[2]))
        made.page.on("dialog", lambda dialog: made.complaints.append(dialog.message))
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("console", lambda said: made.complaints.append(f"{said.type} {said.text}"))
        log_in(made.page, world.served.url, world.admin)
        yield made


def test_the_page_keeps_to_its_host_and_lets_no_name_do_anything(visitor: Visitor) -> None:
    page = visitor.page
    assert page.locator("table").get_by_text(EVIL[:28]).first.is_visible()
    assert visitor.hosts == {visitor.world.served.url.removeprefix("http://")}
    assert [said for said in visitor.complaints if not said.startswith("verbose")] == []


def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(visitor: Visitor) -> None:
    page = visitor.page
    assert accessibility(page) == []
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0


def test_the_first_screen_says_what_was_saved_and_whether_anything_is_wrong(
    visitor: Visitor,
) -> None:
    page, screen = visitor.page, visitor.page.viewport_size["height"]
    for words in ("What the cascade saved", "No alarm now"):
        place = page.get_by_text(words).first.bounding_box()
        assert place["y"] + place["height"] <= screen, words
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, background.partition("(")[2].rstrip(")").split(",")[:3]))
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (brightness < 3 * 128) == dark


def test_requests_are_found_and_unfolded_by_keys_alone(visitor: Visitor) -> None:
    page = visitor.page
    folded = page.locator("details").last
    assert not folded.evaluate("part => part.open")
    summary = folded.locator("summary").first
    for _ in range(60):
        page.keyboard.press("Tab")
        if summary.evaluate("part => part === document.activeElement"):
            break
    page.keyboard.press("Enter")
    assert folded.evaluate("part => part.open")
    assert "large" in folded.inner_text()
    page.get_by_label("List").select_option("escalated")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/?from=*only=escalated*")
    assert "Requests of this process" in page.locator("section h2").first.inner_text()
    assert page.locator("section table").first.is_visible()

"""Who may see the page: keys, cookies, tries, and requests of other sites."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from cascade.ledger.store import UnavailableError
from cascade.service import create_app
from cascade.service.guesses import FREE, LONGEST_S
from cascade.service.keys import Keys, make_key
from cascade.service.page import desk as desk_module
from cascade.service.page.guard import POLICY
from cascade.service.page.sessions import LASTS_S, MOST_SESSIONS, Sessions
from tests.service.page_world import World, running, serving, settings

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with serving(tmp_path, filled=False) as made:
        yield made


@pytest.fixture
def client(world: World) -> Generator[httpx.Client]:
    with httpx.Client(base_url=world.url) as made:
        yield made


def log_in(client: httpx.Client, key: str, **headers: str) -> httpx.Response:
    return client.post("/login", data={"key": key}, headers=headers)


def wrong(number: int) -> str:
    """No key of this service."""
    return f"csk_{number:043d}"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_session_the_page_leads_to_the_login_and_its_figures_are_refused(
    client: httpx.Client,
) -> None:
    page, figures = client.get("/"), client.get("/page/api/report")
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert (figures.status_code, figures.json()["code"]) == (401, "no_session")


@pytest.mark.parametrize(
    "path", ["/", "/login", "/page/api/report", "/page/api/service", "/page/static/page.css",
             "/page/static/nothing.js", "/page/api/events"],
)  # fmt: skip
def test_every_answer_of_the_page_has_its_policy(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] in ("no-store", "no-cache")


def test_an_admin_key_opens_a_session_in_a_strict_cookie(
    client: httpx.Client, world: World
) -> None:
    answer = log_in(client, world.admin)
    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert world.admin not in cookie
    assert client.get("/").status_code == 200
    assert client.get("/login").headers["location"] == "/"
    assert client.get("/page/api/service").json()["key"] == "finance"


def test_behind_tls_the_cookie_is_bound_to_this_host(client: httpx.Client, world: World) -> None:
    answer = log_in(client, world.admin, **{"X-Forwarded-Proto": "https"})
    assert answer.headers["set-cookie"].startswith("__Host-cascade_session=")
    assert "Secure" in answer.headers["set-cookie"]


def test_a_key_that_is_no_admin_key_does_not_open_the_page(
    client: httpx.Client, world: World
) -> None:
    answer = log_in(client, world.key)
    assert answer.status_code == 403
    assert "no admin key" in answer.text
    assert "set-cookie" not in answer.headers


def test_after_some_wrong_keys_one_has_to_wait_also_with_the_right_one(
    client: httpx.Client, world: World
) -> None:
    statuses = [log_in(client, wrong(i)).status_code for i in range(FREE)]
    last = log_in(client, world.admin)
    assert statuses == [401] * FREE
    assert last.status_code == 429
    assert 0 < int(last.headers["retry-after"]) <= LONGEST_S


def test_many_tries_at_once_are_no_way_around(world: World) -> None:
    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(base_url=world.url) as client:
            tries = [client.post("/login", data={"key": wrong(i)}) for i in range(2 * FREE)]
            return [answer.status_code for answer in await asyncio.gather(*tries)]

    statuses = asyncio.run(all_at_once())
    assert statuses.count(401) == FREE
    assert statuses.count(429) == FREE


def test_another_site_cannot_read_the_login(client: httpx.Client) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert client.get("/login", headers=headers).status_code == 403


def test_what_was_typed_is_not_repeated(client: httpx.Client) -> None:
    answer = log_in(client, "<script>alert(1)</script>")
    assert "script>alert" not in answer.text


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"key=" + b"x" * 5_000, FORM, 413),
        (b'{"key": "x"}', {"Content-Type": "application/json"}, 415),
        (b"key=\xff", FORM, 400),
        (b"&".join([b"a=1"] * 20), FORM, 400),
        (b"", FORM, 401),
    ],
)
def test_a_login_that_is_none_is_refused(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert client.post("/login", content=body, headers=headers).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/login", "/logout", "/page/api/play"])
def test_what_another_site_sends_is_refused(
    client: httpx.Client, world: World, headers: dict[str, str], path: str
) -> None:
    log_in(client, world.admin)
    sent = {"key": world.admin} if path == "/login" else {}
    answer = client.post(path, data=sent, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert client.get("/").status_code == 200


def test_another_site_may_link_to_the_page_and_not_read_it(
    client: httpx.Client, world: World
) -> None:
    log_in(client, world.admin)
    cross = {"Sec-Fetch-Site": "cross-site"}
    linked = client.get("/", headers={**cross, "Sec-Fetch-Mode": "navigate"})
    read = client.get("/page/api/report", headers={**cross, "Sec-Fetch-Mode": "cors"})
    assert (linked.status_code, read.status_code) == (200, 403)


def test_a_form_of_this_page_is_taken(client: httpx.Client, world: World) -> None:
    assert log_in(client, world.admin, Origin=world.url).status_code == 303
    assert log_in(client, world.admin, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_after_a_logout_the_cookie_opens_nothing(client: httpx.Client, world: World) -> None:
    log_in(client, world.admin)
    token = client.cookies["cascade_session"]
    assert client.post("/logout").headers["location"] == "/login"
    client.cookies.set("cascade_session", token)
    assert client.get("/").status_code == 303
    assert client.post("/logout").status_code == 303


def test_a_revoked_key_ends_its_sessions(
    client: httpx.Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "KNOWN_FOR_S", 0.0)
    log_in(client, world.admin)
    assert client.get("/").status_code == 200

    async def revoke() -> None:
        keys = Keys(f"sqlite:///{world.folder / 'ledger.db'}")
        await keys.revoke("finance")
        await keys.aclose()

    asyncio.run(revoke())
    assert client.get("/").status_code == 303
    assert client.get("/page/api/report").status_code == 401


def test_a_broken_cookie_is_no_session(client: httpx.Client) -> None:
    assert client.get("/", headers={"Cookie": b"cascade_session=\xe4%00"}).status_code == 303


def test_a_database_that_is_down_is_said_and_counts_as_no_try(
    client: httpx.Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(secret: str) -> None:
        raise UnavailableError("the database cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr(world.app.state.service.keys, "find", down)
        answers = [log_in(client, world.admin) for _ in range(FREE + 1)]
    assert [answer.status_code for answer in answers] == [503] * (FREE + 1)
    assert log_in(client, world.admin).status_code == 303


class TestWithoutALogin:
    @pytest.fixture
    def open_to_all(self, tmp_path: Path) -> Generator[World]:
        with serving(tmp_path, filled=False, auth=False) as made:
            yield made

    def test_the_page_is_open_on_this_machine(self, open_to_all: World) -> None:
        with httpx.Client(base_url=open_to_all.url) as client:
            assert client.get("/").status_code == 200
            assert client.get("/login").headers["location"] == "/"
            assert log_in(client, "x").headers["location"] == "/"
            assert client.get("/page/api/service").json()["login"] is False

    def test_a_foreign_name_for_this_machine_opens_nothing(self, open_to_all: World) -> None:
        with httpx.Client(base_url=open_to_all.url) as client:
            answer = client.get("/page/api/report", headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "unknown_host")


class TestSessions:
    def test_a_session_ends_by_itself(self) -> None:
        clock = Clock()
        sessions = Sessions(clock)
        token = sessions.open(make_key("a")[0])
        clock.now += LASTS_S - 1
        session = sessions.find(token)
        clock.now += 1
        assert session is not None
        assert sessions.ended(session)
        assert sessions.find(token) is None

    def test_a_closed_session_is_seen_by_whoever_holds_it(self) -> None:
        sessions = Sessions()
        token = sessions.open(make_key("a")[0])
        session = sessions.find(token)
        sessions.close(token)
        sessions.close("nobody's")
        assert session is not None
        assert sessions.ended(session)

    def test_there_are_so_many_sessions_and_the_oldest_ends(self) -> None:
        sessions = Sessions()
        tokens = [sessions.open(make_key("a")[0]) for _ in range(MOST_SESSIONS + 1)]
        assert sessions.find(tokens[0]) is None
        assert sessions.find(tokens[1]) is not None


def test_each_service_has_sessions_of_its_own(world: World, tmp_path: Path) -> None:
    with (
        running(create_app(settings(world.upstream, tmp_path / "ledger.db"))) as url,
        httpx.Client() as client,
    ):
        client.post(f"{world.url}/login", data={"key": world.admin})
        assert client.get(f"{world.url}/").status_code == 200
        assert client.get(f"{url}/").status_code == 303

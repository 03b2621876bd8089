"""The page: who may see it, what it shows first, and what it lists."""

from __future__ import annotations

import httpx
import pytest

from tests.acceptance.upstream import Answer, Upstream, failure
from tests.service.conftest import Serve, Served


async def login(served: Served, secret: str | None = None) -> httpx.Response:
    return await served.client.post("/login", data={"key": secret or served.secret})


async def test_the_page_asks_for_an_admin_key_and_its_session_ends_with_the_key(
    serve: Serve,
) -> None:
    async with serve() as served:
        served.client.headers.pop("Authorization")
        nobody = await served.client.get("/")
        form = await served.client.get("/login")
        wrong = await login(served, "csk_" + "x" * 43)
        plain = await login(served, await served.key("plain"))
        right = await login(served)
        cookie = right.headers["set-cookie"]
        page = await served.client.get("/")
        head = await served.client.head("/")
        await served.gateway.keys.revoke("owner")
        after = await served.client.get("/")
    assert (nobody.status_code, nobody.headers["location"]) == (303, "/login")
    assert "<form" in form.text
    assert (wrong.status_code, plain.status_code, right.status_code) == (401, 403, 303)
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert served.secret not in cookie
    assert (page.status_code, head.status_code, after.status_code) == (200, 200, 303)


async def test_a_session_cannot_be_forged_or_prolonged(serve: Serve) -> None:
    async with serve() as served:
        made = (await login(served)).cookies["cascade_session"]
        key_id, until, mark = made.split(".")
        served.client.cookies.clear()
        for forged in (f"{key_id}.{int(until) + 9}.{mark}", f"{key_id}.{until}.{'0' * 64}", "x.y"):
            answer = await served.client.get("/", headers={"Cookie": f"cascade_session={forged}"})
            assert answer.status_code == 303


async def test_pages_of_other_sites_are_refused(serve: Serve) -> None:
    async with serve(auth=False) as served:
        cross = await served.client.get("/", headers={"Sec-Fetch-Site": "cross-site"})
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        opened = await served.client.get("/", headers=link)
        post = await served.client.post("/logout", headers={"Sec-Fetch-Site": "same-site"})
        out = await served.client.post("/logout", headers={"Sec-Fetch-Site": "same-origin"})
    assert (cross.status_code, opened.status_code) == (403, 200)
    assert (post.status_code, out.status_code) == (403, 303)


async def test_the_policy_allows_no_script_and_no_other_host(serve: Serve) -> None:
    async with serve(auth=False) as served:
        page = await served.client.get("/")
        style = await served.client.get("/static/page.css")
        gone = await served.client.get("/static/other.css")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'")
    assert "script" not in policy
    assert "<script" not in page.text
    assert " style=" not in page.text
    assert "//" not in page.text.replace("//www.w3.org", "")
    assert style.headers["content-type"].startswith("text/css")
    assert gone.status_code == 404


async def test_first_sight_says_what_was_saved_how_good_it_was_and_what_is_wrong(
    serve: Serve, upstream: Upstream
) -> None:
    async with serve("    audits: 1.0\n", auth=False) as served:
        upstream.says("large", Answer("Canberra", tokens=(100, 10)))
        for _ in range(5):
            await served.ask()
        await served.gateway.served["support"].cascade.aclose()
        calm = (await served.client.get("/")).text
        upstream.says("small", failure(503))
        upstream.says("large", failure(503))
        await served.ask()
        alarmed = (await served.client.get("/?days=1")).text
    assert "Nothing is wrong now." in calm
    first = calm.partition("<h2>")[0]
    assert "0 of 5 checked drafts were worse than the large answer" in first
    assert "Wrong now" in alarmed
    assert "1 of 6 requests failed in 15 minutes: unavailable." in alarmed
    assert "00000000" not in calm.replace("run", "")[:2000]


async def test_requests_are_listed_folded_and_filtered(serve: Serve, upstream: Upstream) -> None:
    async with serve(auth=False) as served:
        await served.ask()
        upstream.says("small", Answer("draft", p=0.1))
        escalated = (await served.ask()).headers["x-cascade-run-id"]
        all_of_them = (await served.client.get("/")).text
        one = (await served.client.get("/?only=escalated")).text
        none = (await served.client.get("/?q=nothing-like-it&only=failed")).text
    assert "Requests of this process: 2 of the last 2" in all_of_them
    assert "<details><summary>Requests of this process" in all_of_them
    assert "<details open><summary>Requests of this process: 1 of the last 2" in one
    assert escalated in one
    assert "expert large" in one
    assert "Requests of this process: 0 of" in none


async def test_teams_are_called_by_name_and_their_budgets_are_shown(serve: Serve) -> None:
    from decimal import Decimal  # noqa: PLC0415

    async with serve() as served:
        key, secret = await served.gateway.keys.create("search <team>", day_usd=Decimal("1.5"))
        await served.ask(served.as_key(secret))
        await login(served)
        page = (await served.client.get(f"/?key={key.id}&cascade=support")).text
    assert "search &lt;team&gt;" in page
    assert "<team>" not in page
    assert "Budgets of keys" in page
    assert "$1.50" in page


async def test_a_period_is_chosen_by_days_and_exported(serve: Serve) -> None:
    async with serve(auth=False) as served:
        await served.ask()
        past = (await served.client.get("/?from=2020-01-01&to=2020-01-31")).text
        bad = await served.client.get("/?from=yesterday")
        csv = await served.client.get("/export/ledger.csv")
        lines = await served.client.get("/export/ledger.jsonl?from=2020-01-01&to=2020-01-31")
        gone = await served.client.get("/export/ledger.xlsx")
    assert "no requests in this period" in past
    assert bad.status_code == 400
    assert csv.text.splitlines()[0].startswith("run_id,")
    assert "127.0.0.1" not in csv.text
    assert lines.text == ""
    assert gone.status_code == 404


@pytest.mark.parametrize("path", ["/login", "/"])
async def test_a_page_without_a_ledger_says_so(serve: Serve, path: str) -> None:
    async with serve(auth=False, ledger=None) as served:
        answer = await served.client.get(path, follow_redirects=True)
    assert "There is no ledger" in answer.text

"""The page: who may see it, what it shows first, and what it lists."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from tests.acceptance.upstream import Answer, Upstream, failure
from tests.service.conftest import Serve, Served


async def test_the_page_asks_for_an_admin_key_as_a_password(served: Served) -> None:
    served.client.headers.pop("Authorization")
    asked = await served.client.get("/")
    guessed = await served.client.get("/", auth=("me", "csk_" + "x" * 43))
    plain = await served.client.get("/", auth=("me", await served.key("plain")))
    page = await served.client.get("/", auth=("me", served.secret))
    head = await served.client.head("/", auth=("me", served.secret))
    await served.gateway.keys.revoke((await served.gateway.keys.list())[0].id)
    after = await served.client.get("/", auth=("me", served.secret))
    assert asked.headers["www-authenticate"].startswith("Basic")
    assert "text/html" in asked.headers["content-type"]
    refused = (asked, guessed, plain, after)
    assert [each.status_code for each in refused] == [401] * 4
    assert (page.status_code, head.status_code) == (200, 200)


async def test_a_password_opens_the_page_alone(served: Served) -> None:
    """A browser that knows it sends it along with what a page of another site asks for."""
    served.client.headers.pop("Authorization")
    known = ("me", served.secret)
    question = {"model": "support", "messages": [{"role": "user", "content": "Hello?"}]}
    asked = await served.client.post("/v1/chat/completions", json=question, auth=known)
    reload = await served.client.post("/admin/reload", auth=known)
    assert [each.status_code for each in (asked, reload)] == [401, 401]


async def test_other_sites_get_no_page_and_no_script_is_allowed(serve: Serve) -> None:
    async with serve(auth=False) as served:
        cross = await served.client.get("/", headers={"Sec-Fetch-Site": "cross-site"})
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        opened = await served.client.get("/", headers=link)
        page = await served.client.get("/")
    assert (cross.status_code, opened.status_code) == (403, 200)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src data:; form-action 'self';")
    assert "script" not in policy
    assert "<script" not in page.text
    assert " style=" not in page.text
    assert "//" not in page.text.replace("//www.w3.org", "")


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
        alarmed = (await served.client.get("/")).text
    assert "No alarm now." in calm
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
    assert "<section><h2>Requests of this process: 1 of the last 2" in one
    assert escalated in one
    assert "expert large" in one
    assert "Requests of this process: 0 of" in none


async def test_teams_are_called_by_name_and_their_budgets_are_shown(served: Served) -> None:
    key, secret = await served.gateway.keys.create("search <team>", day_usd=Decimal("1.5"))
    await served.ask(served.as_key(secret))
    page = (await served.client.get(f"/?key={key.id}&cascade=support")).text
    assert "search &lt;team&gt;" in page
    assert "<team>" not in page
    assert "Budgets of keys" in page
    assert "$1.50" in page


async def test_a_period_is_chosen_by_days_and_exported(serve: Serve) -> None:
    async with serve(auth=False) as served:
        await served.ask()
        today = datetime.now(UTC).date()
        shown = (await served.client.get(f"/?from={today}&to={today}")).text
        past = (await served.client.get("/?from=2020-01-01&to=2020-01-31")).text
        days = ("from=yesterday", "from=0001-01-01", "to=9999-12-31")
        bad = [(await served.client.get(f"/?{each}")).status_code for each in days]
        csv = await served.client.get("/export/ledger.csv")
        lines = await served.client.get("/export/ledger.jsonl?from=2020-01-01&to=2020-01-31")
        gone = await served.client.get("/export/ledger.xlsx")
    assert f"What the cascade saved, {today} to {today}" in shown
    assert "no requests in this period" in past
    assert bad == [400, 400, 400]
    assert "run_id" in csv.text.splitlines()[0].split(",")
    assert "127.0.0.1" not in csv.text
    assert lines.text == ""
    assert gone.status_code == 404


async def test_a_page_without_a_ledger_says_so(serve: Serve) -> None:
    async with serve(auth=False, ledger=None) as served:
        answer = await served.client.get("/")
    assert "There is no ledger" in answer.text

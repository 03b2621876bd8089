"""schemathesis finds no request that makes the gateway fail, or answer otherwise than it says.

`CASCADE_FUZZ_EXAMPLES=400` asks for a longer run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from environments import NoEnvironmentError

from tests.service import fuzzing
from tests.service.foreign import SCHEMATHESIS, environment
from tests.service.fuzzing import Fuzzed, fuzz
from tests.service.talking import talking


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fuzzed]:
    """What came of each document."""
    try:
        program = environment(SCHEMATHESIS).with_name("schemathesis")
    except NoEnvironmentError as error:
        pytest.skip(str(error))
    return asyncio.run(work(program, tmp_path_factory.mktemp("fuzzed")))


ELSEWHERE = ("positive_data_acceptance", "negative_data_rejection")
"""Checks that need requests of their own: no schema says that a tool's result needs a call."""


async def work(program: Path, folder: Path) -> dict[str, Fuzzed]:
    async with talking(folder, auth=True) as talk:
        usual = talk.upstream.oblige
        talk.upstream.oblige = lambda body: fuzzing.steady(body, usual)
        url = talk.gateway.server.address
        secret = await talk.gateway.key("admin", admin=True)
        key = ("--header", f"Authorization: Bearer {secret}")
        cookie = ("--header", f"Cookie: cascade_session={await logged_in(url, secret)}")
        published = fuzzing.published((await talk.http.get("/openapi.json")).json())
        keys = fuzzing.keys(published)
        loose = ("--exclude-checks", ",".join(ELSEWHERE))
        refused = ("--mode", "negative", "--checks", "negative_data_rejection")
        accepted = ("--mode", "positive", "--phases", "fuzzing")
        accepted = (*accepted, "--max-examples", str(3 * fuzzing.EXAMPLES))
        documents = {
            "published": (published, [*key, *loose]),
            "bodies": (fuzzing.bodies(published), [*key, *refused]),
            "sensible": (fuzzing.sensible(published), [*key, *accepted]),
            "page": (fuzzing.of_the_page(), [*cookie, "--checks", "not_a_server_error"]),
        }
        fuzzed = await asyncio.gather(
            *(
                fuzz(program, about, url, folder / name, *options)
                for name, (about, options) in documents.items()
            )
        )
        found = dict(zip(documents, fuzzed, strict=True))
        # After all others: it revokes any key, its own among them.
        found["keys"] = await fuzz(program, keys, url, folder / "keys", *key, *loose)
    for name, one in found.items():  # for those who ask for more
        print(f"{name}: {one.cases} cases, {one.failures}")
    return found


async def logged_in(url: str, secret: str) -> str:
    """The cookie of a session of the page."""
    async with httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/login", data={"key": secret})
    assert response.status_code == 303
    return response.cookies["cascade_session"]


@pytest.mark.parametrize("name", ["published", "keys", "bodies", "sensible", "page"])
def test_no_request_is_answered_with_a_failure(fuzzed: dict[str, Fuzzed], name: str) -> None:
    failed = {key: n for key, n in fuzzed[name].statuses.items() if key[2] >= 500}
    assert not failed, fuzzed[name].words


@pytest.mark.parametrize("name", ["published", "keys", "bodies", "sensible"])
def test_answers_are_as_they_are_described(fuzzed: dict[str, Fuzzed], name: str) -> None:
    assert not fuzzed[name].failures, fuzzed[name].words


@pytest.mark.parametrize("path", fuzzing.MEANT)
def test_a_request_that_makes_sense_is_answered(fuzzed: dict[str, Fuzzed], path: str) -> None:
    statuses = fuzzed["sensible"].of(path)
    assert statuses[200] >= fuzzing.EXAMPLES
    assert set(statuses) <= {200, 401}  # without a key it is tried as well


def test_many_cases_are_tried(fuzzed: dict[str, Fuzzed]) -> None:
    assert sum(one.cases for one in fuzzed.values()) > 1000
    assert all(one.cases > 50 for one in fuzzed.values())
    assert fuzzed["published"].of("/v1/chat/completions")[200] > 0
    assert fuzzed["bodies"].of("/v1/responses")[400] > 0
    assert fuzzed["keys"].of("/admin/keys")[201] > 0
    assert fuzzed["page"].of("/page/api/report")[200] > 0

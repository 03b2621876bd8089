"""The manual is built without a warning, every page is in it, and every link arrives."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import floors
import manual
import manual_api
import manual_links
import manual_parts
import manual_pictures
from tests.service.chromium import NoBrowserError, browser, browser_path

MATHEMATICS = floors.ROOT / "docs" / "mathematics.md"


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without making the objects that it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation(part: Any) -> list[str]:
    """The pages of the navigation, in order."""
    if isinstance(part, str):
        return [part]
    if isinstance(part, dict):
        return [page for below in part.values() for page in navigation(below)]
    return [page for below in part for page in navigation(below)]


@pytest.fixture(scope="module")
def in_navigation() -> list[str]:
    text = (floors.ROOT / manual.CONFIGURATION).read_text(encoding="utf-8")
    return navigation(yaml.load(text, Loader)["nav"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    if find_spec("zensical") is None:
        pytest.skip("the manual's builder is not installed: the dependency group docs has it")
    folder = tmp_path_factory.mktemp("manual")
    return folder / manual.SITE, manual.build(folder)


@pytest.fixture(scope="module")
def read(built: tuple[Path, list[str]]) -> dict[Path, manual_links.Page]:
    return manual_links.pages(built[0])


def test_it_is_built_strictly_and_every_link_and_anchor_is_there(
    built: tuple[Path, list[str]], read: dict[Path, manual_links.Page]
) -> None:
    assert built[1] == []
    assert len(read) > 100


def test_every_page_of_docs_is_in_the_navigation_once(in_navigation: list[str]) -> None:
    ours = {path.name for path in (floors.ROOT / "docs").glob("*.md")}
    assert ours - set(in_navigation) == set(), "give them a place in the nav of mkdocs.yml"
    assert len(in_navigation) == len(set(in_navigation))


def test_no_page_loads_anything_from_another_host(read: dict[Path, manual_links.Page]) -> None:
    loaded = {address for page in read.values() for address in page.loads}
    assert loaded
    assert not [address for address in loaded if "//" in address and address[:5] != "data:"]


def test_the_search_finds_words_of_every_part(built: tuple[Path, list[str]]) -> None:
    index = (built[0] / "search.js").read_text(encoding="utf-8")
    for page in ("tutorial.html", "cli.html", "reference/cascade.html", "changes.html"):
        assert page in index


async def test_the_search_works_from_the_file_system_and_asks_nobody(
    built: tuple[Path, list[str]],
) -> None:
    asked: list[str] = []
    try:
        browser_path()
    except NoBrowserError as error:
        pytest.skip(str(error))
    async with browser() as started:
        page = await started.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        await page.goto((built[0] / "index.html").as_uri())
        await page.get_by_role("button", name="Search").first.click()
        await page.get_by_role("combobox", name="Search").fill("hedging")
        first = page.get_by_role("option").first
        assert "deadlines.html" in (await first.get_attribute("href") or "")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def test_every_public_name_has_its_place_in_the_reference(
    built: tuple[Path, list[str]], read: dict[Path, manual_links.Page]
) -> None:
    page = read[built[0] / "reference" / "cascade.html"]
    assert {"cascade.Cascade", "cascade.Cascade.invoke", "cascade.Price"} <= page.anchors


def test_every_paper_of_the_package_has_a_formula_and_no_other_is_named() -> None:
    by_hand = MATHEMATICS.read_text(encoding="utf-8").partition("<!-- generated")[0]
    assert set(manual_parts.PAPER.findall(by_hand)) == set(manual_parts.papers())


@pytest.mark.parametrize("name", manual_pictures.PICTURES)
def test_a_picture_is_drawn_from_the_program_as_it_is(name: str) -> None:
    committed = (manual_pictures.FOLDER / name).read_text(encoding="utf-8")
    assert committed == manual_pictures.PICTURES[name](), "run make docs"


SITE = {
    "index.html": '<title>Home</title><h1 id="top">x</h1><a href="a.html#there">a</a>',
    "a.html": '<p id="there">text</p><img src="b.png"><a href="#nowhere">x</a>',
    "c.html": '<script src="https://example.com/x.js"></script><p>These:\n- one</p>',
    "d.html": '<a href="index.html#top">x</a><a href="gone.html">y</a><a href="mailto:x">z</a>',
}


def test_what_is_wrong_in_a_site_is_named_with_its_page(tmp_path: Path) -> None:
    for name, text in SITE.items():
        (tmp_path / name).write_text(text)
    assert manual_links.wrong(tmp_path) == [
        "a.html: links to #nowhere, an anchor that is not there",
        "a.html: links to b.png, which is not there",
        "c.html: loads https://example.com/x.js, which is not of the site",
        "c.html: a list needs an empty line before it: 'These:\\n- one'",
        "d.html: links to gone.html, which is not there",
    ]


def test_links_out_of_docs_lead_to_pages_that_show_the_file(tmp_path: Path) -> None:
    manual.Layout(tmp_path).write()
    page = (tmp_path / "concepts.md").read_text(encoding="utf-8")
    assert "(source/agents/router.py.md)" in page
    shown = (tmp_path / "source" / "agents" / "router.py.md").read_text(encoding="utf-8")
    assert "class Router" in shown
    assert "(source/deploy.md)" in (tmp_path / "production.md").read_text(encoding="utf-8")


def test_links_of_the_pages_lead_to_files_of_the_repository_as_well() -> None:
    gone = []
    for path in sorted((floors.ROOT / "docs").glob("*.md")):
        text = manual.FENCED.sub("", path.read_text(encoding="utf-8"))
        links = {link["path"] for link in manual.LINK.finditer(text)}
        gone += [f"{path.name}: {link}" for link in links if not (path.parent / link).exists()]
    assert gone == []


def test_a_claim_about_a_peer_holds_only_where_it_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(floors.ROOT / "benchmarks"))
    claims = import_module("peer_claims")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("Platt")
    (tmp_path / "cost.py").write_text("RATIO = 60.0")
    found = [
        claims.holds(claims.Claim("peer 1", "says", **given), tmp_path)
        for given in (
            {"file": "cost.py", "text": "RATIO = 60.0"},
            {"file": "cost.py", "text": "RATIO = 61.0"},
            {"file": "gone.py", "text": "RATIO"},
            {"absent": ("platt",)},
            {"absent": ("isotonic", "ratio")},
        )
    ]
    assert found == [True, False, False, True, False]


def test_links_in_code_are_left_alone() -> None:
    text = "[a](b.md)\n```python\nx = [a](b.md)\n```\n[a](b.md)\n"
    changed = manual.outside_fences(text, lambda part: re.sub("b.md", "c.md", part))
    assert changed == "[a](c.md)\n```python\nx = [a](b.md)\n```\n[a](c.md)\n"


def test_a_docstring_becomes_markdown() -> None:
    said = "Says.\n\nArgs:\n    name: what it is,\n        over two lines.\n    other, more: x.\n"
    assert manual_api.text(said).split("\n") == [
        *("Says.", "", "", "**Arguments**", ""),
        *("- `name`: what it is, over two lines.", "- `other`, `more`: x.", "", ""),
    ]

"""The page of a report: well formed, self-contained, and drawn by a real browser."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from cascade.report import Report, make_report
from tests.demo.test_page import Checker
from tests.report.ledgers import NOON, Story, World, entry, store_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
EVIL = "<b>evil</b>"


def made(*, empty: bool = False) -> Report:
    async def make() -> Report:
        told, _ = World(300, 3).stories(0.3, 1)
        told += [
            Story(NOON + timedelta(days=2)).fails("draft", note=EVIL),
            Story(NOON + timedelta(days=2)).draft(model=EVIL, price=EVIL).accept(),
        ]
        event = entry("watch", "drift", at=NOON + timedelta(days=3), note=EVIL)
        with closing(await store_of([] if empty else [*told, event])) as store:
            return await make_report(store, by=("node", "day", "tag:team"))

    return asyncio.run(make())


REPORT = made()
PAGE = REPORT.html()


@pytest.mark.parametrize("page", [PAGE, made(empty=True).html()], ids=["full", "empty"])
def test_the_page_is_well_formed_and_asks_no_host_for_anything(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert checker.wrong == []
    assert checker.open == []
    assert not re.search(r"https?:|//\w|url\(|@import|<script|<link|<img|<iframe", page)
    assert "default-src 'none'" in page


def test_texts_from_the_ledger_are_escaped() -> None:
    assert EVIL not in PAGE
    assert PAGE.count("&lt;b&gt;evil&lt;/b&gt;") >= 4


def test_the_page_shows_three_pictures_and_all_tables() -> None:
    assert PAGE.count("<svg") == 3
    for title in (
        "Money",
        "Answers",
        "By node",
        "By day",
        "By tag:team",
        "Events",
        "Unknown costs",
    ):
        assert f"<h2>{title}</h2>" in PAGE
    assert "prefers-color-scheme: dark" in PAGE
    assert "@media print" in PAGE


def test_an_unaudited_saving_is_not_called_verified_on_the_page() -> None:
    async def make() -> Report:
        with closing(await store_of([Story().draft().accept(rate=0.1)])) as store:
            return await make_report(store)

    page = asyncio.run(make()).html()
    assert "net saving, not verified" in page
    assert "Verified net saving" not in page


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(PAGE, encoding="utf-8")
    assert BROWSER is not None
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,3000"]
    folder = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [BROWSER, *arguments, folder, f"--screenshot={picture}", page.as_uri()],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert picture.exists(), done.stderr
    assert picture.stat().st_size > 50_000
    assert "CONSOLE" not in done.stderr  # a refused or broken part of the page

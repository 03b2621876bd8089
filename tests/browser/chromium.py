"""Chromium of this machine, installed in CI where it is absent, as Playwright drives it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.debian import found_or_installed

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Headless, for root too, without calls of its own to the network."""


class NoBrowserError(Exception):
    """There is no Chromium, and it cannot be installed here."""


def _find() -> Path | None:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return None if found is None else Path(found)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser.

    Raises:
        NoBrowserError: with what was tried.
    """
    path, why = found_or_installed(_find, "chromium", timeout=600)
    if path is None:
        raise NoBrowserError(f"there is no chromium{why}")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield made
        made.close()


def log_in(page: Page, url: str, key: str) -> None:
    """Open the page of a service with an admin key."""
    page.set_extra_http_headers({"Authorization": f"Bearer {key}"})
    page.goto(f"{url}/")


def accessibility(page: Page) -> list[str]:
    """What axe-core finds serious or critical."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found: Any = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:160]} {one['nodes'][0]['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]

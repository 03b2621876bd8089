"""Chromium of this machine, installed in CI where it is absent, as Playwright drives it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

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


def _find() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def _found_or_installed() -> str:
    found, why = _find(), ""
    if found is None and "CI" in os.environ and os.geteuid() == 0 and shutil.which("apt-get"):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]):
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            why = f" ({' '.join(command)} failed: {done.stderr})" if done.returncode else why
        found = _find()
    if found is None:
        raise NoBrowserError(f"there is no chromium{why}")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser.

    Raises:
        NoBrowserError: with what was tried.
    """
    path = _found_or_installed()
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

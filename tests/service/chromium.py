"""A real browser, without a window; the tests that need it are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from tests.debian import found_or_installed

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


class NoBrowserError(Exception):
    """There is no Chromium here; the message says why."""


def browser_path() -> Path:
    """The browser's program; it is installed where this is CI and we may."""
    found, why = found_or_installed(_find, "chromium", timeout=600)
    if found is None:
        raise NoBrowserError(f"no Chromium here: apt install chromium{why}")
    return found


def _find() -> Path | None:
    return next((Path(path) for name in NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def browser() -> AsyncGenerator[Any]:
    """Start one; gives Playwright's browser."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=str(browser_path()), args=ARGUMENTS
        )
        try:
            yield started
        finally:
            await started.close()


class Visitor:
    """Somebody with a browser who looks at one service, and writes down what should not happen.

    Attributes:
        complaints: errors in the console, breaches of the page's policy, requests to other hosts.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", self._asked)
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url + "/", "data:")):
            self.complaints.append(f"another host: {request.url}")

    async def log_in(self, key: str) -> None:
        """Open the page, which asks for a key, and give it one."""
        await self.page.goto(f"{self.url}/")
        await self.page.get_by_label("Admin key").fill(key)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.wait_for_url(f"{self.url}/")

    async def ask(self, question: str) -> None:
        """Ask in the playground."""
        await self.page.get_by_label("Question").fill(question)
        await self.page.get_by_role("button", name="Ask").click()


@asynccontextmanager
async def visiting(opened: Any, url: str, **context: Any) -> AsyncGenerator[Visitor]:
    """A visitor with a profile of their own."""
    own = await opened.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    try:
        page = await own.new_page()
        page.set_default_timeout(30_000)
        yield Visitor(page, url)
    finally:
        await own.close()

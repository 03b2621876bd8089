"""Takes the pictures of the page in docs/images: a service with a filled ledger, a real browser.

    python scripts/screenshots.py

The requests and their models are made up, the page and its figures are not. It needs Chromium and
the packages of the tests.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.service.chromium import Visitor, browser, visiting  # noqa: E402
from tests.service.page_world import World, serving  # noqa: E402

IMAGES = ROOT / "docs" / "images"
LARGEST = 200_000
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
QUESTIONS = ("What is the capital of Australia?", "A hard question", "Another easy one")


def main() -> None:
    """Take them all."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as world:
        asyncio.run(_take(world))


async def _take(world: World) -> None:
    async with browser() as opened:
        async with visiting(opened, world.url, color_scheme="light") as visitor:
            await _fill(visitor, world)
            await _keep(visitor, "page-light")
            await _keep(visitor, "page-what-if", "#whatif")
            await _keep(visitor, "page-playground", "#play")
        async with visiting(opened, world.url, color_scheme="dark") as visitor:
            await _fill(visitor, world)
            await _keep(visitor, "page-dark", "#days")
        async with visiting(opened, world.url, color_scheme="light", **PHONE) as visitor:
            await _fill(visitor, world)
            await _keep(visitor, "page-phone")


async def _fill(visitor: Visitor, world: World) -> None:
    """Log in, ask some questions, and wait until they are in the figures."""
    page = visitor.page
    await visitor.log_in(world.admin)
    await page.locator("#threshold").wait_for()
    for question in QUESTIONS:
        await visitor.ask(question)
        await page.locator("#state", has_text="Done").wait_for()
        await page.locator("#list > li.new", has_text="support").first.wait_for()
    await visitor.ask(QUESTIONS[1])
    await page.locator("#state", has_text="answered by large").wait_for()
    await page.wait_for_timeout(4_000)  # the figures follow, and arrivals have faded


async def _keep(visitor: Visitor, name: str, part: str = "") -> None:
    """A picture of the top of the page, or from one of its parts on, in few colours."""
    page: Any = visitor.page
    if part:
        await page.locator(part).evaluate("part => part.scrollIntoView({behavior: 'instant'})")
    else:
        await page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    await page.wait_for_timeout(300)
    picture = Image.open(io.BytesIO(await page.screenshot())).convert("RGB")
    target = IMAGES / f"{name}.png"
    picture.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target.relative_to(ROOT)}: {size:,} bytes")
    if size > LARGEST:
        raise SystemExit(f"{target.name} has {size:,} bytes; {LARGEST:,} are the most.")
    if visitor.complaints:
        raise SystemExit(f"the page complained: {visitor.complaints}")


if __name__ == "__main__":
    main()

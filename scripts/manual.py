"""Builds the manual into site/: the last step of `make docs`.

    python scripts/manual.py [--serve]

The pages of docs/ are laid out in build/manual, with what only the manual has: the reference of
the API, the pages that stand at the top of the repository, and each file of the repository to
which a page links. Zensical builds them by mkdocs.yml, and a warning of its is an error. Then
every link, anchor and picture of the site is looked up, and every address that it would load.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import floors
import manual_api
import manual_links
import manual_service

ROOT = floors.ROOT
CONFIGURATION = "mkdocs.yml"
PAGES = "build/manual"
SITE = "site"
DOCS = PurePosixPath("docs")
AT_TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
"""Files outside docs/ that are pages of the manual, with where they stand there."""
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
"""Above pages that show files of the repository: who searches the manual wants its words."""
MOST = 40
"""Problems that are printed; one in the navigation stands on every page."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}

FENCED = re.compile(r"^(```+)[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(
    r"(?:(?<=\]\()|(?<=\]: ))(?!\w+:|#)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\)|$)",
    re.MULTILINE,
)


class Layout:
    """The pages of the manual, as they are laid out for Zensical.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: list[PurePosixPath] = []
        self._done: set[PurePosixPath] = set()

    def write(self) -> None:
        """Write all pages, and those that they link to, anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._waiting = [
            PurePosixPath(path.relative_to(ROOT).as_posix())
            for path in sorted((ROOT / "docs").rglob("*"))
            if path.is_file()
        ]
        self._waiting += [PurePosixPath(name) for name in AT_TOP if name != "README.md"]
        while self._waiting:
            source = self._waiting.pop()
            if source not in self._done:
                self._done.add(source)
                self._page(source)
        for name, text in (manual_api.pages() | manual_service.pages()).items():
            self._put(PurePosixPath("reference") / name, text)

    def _page(self, source: PurePosixPath) -> None:
        path, place = ROOT / source, place_of(source)
        if source.suffix == ".md" and path.is_file():
            text = path.read_text(encoding="utf-8")
            self._put(place, outside_fences(text, partial(self._relinked, source, place)))
        elif source.is_relative_to(DOCS):
            target = self.folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        else:
            self._put(place, shown(source, path))

    def _put(self, place: PurePosixPath, text: str) -> None:
        target = self.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def _relinked(self, source: PurePosixPath, place: PurePosixPath, text: str) -> str:
        return LINK.sub(lambda link: self._target(source, place, link), text)

    def _target(self, source: PurePosixPath, place: PurePosixPath, link: re.Match[str]) -> str:
        there = PurePosixPath(os.path.normpath(source.parent / link["path"]))
        if (ROOT / there).is_dir() and (ROOT / there / "README.md").exists():
            there /= "README.md"
        if there.parts[0] == ".." or not (ROOT / there).exists():
            return link[0]  # the check of the site names it, with its page
        if there.name != "README.md" or there.parent.parts:
            self._waiting.append(there)
        wanted = os.path.relpath(place_of(there), place.parent)
        return PurePosixPath(wanted).as_posix() + (link["anchor"] or "")


def place_of(source: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository stands in the manual."""
    if source.is_relative_to(DOCS):
        return source.relative_to(DOCS)
    if str(source) in AT_TOP:
        return PurePosixPath(AT_TOP[str(source)])
    if source.suffix == ".md":
        return "source" / source
    return PurePosixPath("source") / f"{source}.md"


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """A text with a change made to what is not code."""
    pieces, position = [], 0
    for fence in FENCED.finditer(text):
        pieces += [change(text[position : fence.start()]), fence[0]]
        position = fence.end()
    return "".join([*pieces, change(text[position:])])


def shown(source: PurePosixPath, path: Path) -> str:
    """A page that shows a file of the repository, or lists a folder."""
    if path.is_dir():
        names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in path.iterdir())
        listed = [f"- `{name}`" for name in names if not name.startswith(("_", "."))]
        return "\n".join([UNSEARCHED + f"# {source}/", "", *listed, ""])
    code = path.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * max(4, *(len(run) + 1 for run in re.findall("`+", code) or [""]))
    language = LANGUAGES.get(source.suffix, "text")
    return f"{UNSEARCHED}# {source}\n\n{fence}{language}\n{code}\n{fence}\n"


def build(folder: Path = ROOT) -> list[str]:
    """Build the manual below a folder: its pages in build/manual, the site in site/.

    Returns:
        What is wrong with it, each with its page; empty where nothing is.
    """
    Layout(folder / PAGES).write()
    shutil.rmtree(folder / SITE, ignore_errors=True)
    if folder != ROOT:
        shutil.copyfile(ROOT / CONFIGURATION, folder / CONFIGURATION)
    ran = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", CONFIGURATION],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    if ran.returncode:
        return [plain(ran.stdout + ran.stderr)]
    return manual_links.wrong(folder / SITE)


def plain(text: str) -> str:
    """What was printed, without colours and without the trace of the program."""
    return re.sub(r"\x1b\[[\d;]*m", "", text).partition("Traceback")[0].strip()


def serve(port: int) -> None:
    """Show the site until Ctrl-C."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(ROOT / SITE))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main() -> int:
    """Build, say what is wrong, and serve where that is wanted."""
    parser = argparse.ArgumentParser(description="Builds the manual into site/.")
    parser.add_argument("--serve", action="store_true", help="show it on this machine afterwards")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    found = build()
    for problem in found[:MOST]:
        print(problem, file=sys.stderr)
    count = len(list((ROOT / SITE).rglob("*.html")))
    print(f"{count} pages, {len(found)} problems: {SITE}/index.html")
    if given.serve and not found:
        serve(given.port)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

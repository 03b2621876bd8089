"""Generated parts of the manual: the README's opening, papers, what is said of peers."""

from __future__ import annotations

import re
import sys
from importlib import import_module

import floors

PAPER = re.compile(r"(?<![\d.])(?:\d{4}\.\d{5}|1211\.0025)(?!\d)")
OUTSIDE = ("cascade.testing", "cascade.demo")
"""Their numbers are test data."""


def opening() -> str:
    """What the README says before its first heading, below its title; as a page of docs/ links."""
    text = (floors.ROOT / "README.md").read_text(encoding="utf-8")
    said = text.partition("\n## ")[0].partition("\n")[2].strip()
    return "\n" + said.replace("](docs/", "](") + "\n\n"


def papers() -> dict[str, list[str]]:
    """The arXiv numbers in the package's docstrings, each with the files that name it."""
    found: dict[str, list[str]] = {}
    for module, path in sorted(floors.modules().items()):
        if module.startswith(OUTSIDE):
            continue
        place = path.relative_to(floors.ROOT).as_posix()
        for number in dict.fromkeys(PAPER.findall(path.read_text(encoding="utf-8"))):
            found.setdefault(number, []).append(place)
    return dict(sorted(found.items()))


def papers_table() -> str:
    """The papers as a table, the files as links."""
    rows = ["", "| paper | used in |", "|---|---|"]
    for number, places in papers().items():
        links = [f"[{place.removeprefix('cascade/')}](../{place})" for place in places]
        rows.append(f"| [{number}](https://arxiv.org/abs/{number}) | {', '.join(links)} |")
    return "\n".join([*rows, "", ""])


def peers_table() -> str:
    """What is said of other projects, each claim with its evidence."""
    sys.path.insert(0, str(floors.ROOT / "benchmarks"))
    try:
        claims = import_module("peer_claims")
    finally:
        sys.path.pop(0)
    return f"\n{claims.table()}\n\n"

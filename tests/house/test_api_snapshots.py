"""What users rely on changes only on purpose: it is compared with tests/house/snapshots."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import api_snapshot
import api_source
import floors

COMPATIBILITY = floors.ROOT / "docs" / "compatibility.md"

TO_DO = (
    "\n\nUsers rely on this. If it was meant: run `{renew}`, read the difference that git shows, "
    "and give it a line in CHANGELOG.md; what is removed or renamed is deprecated first "
    "(docs/compatibility.md). If it was not meant, mend the code."
)


@pytest.mark.parametrize("kind", api_snapshot.KINDS)
def test_what_users_rely_on_is_as_it_was(kind: str) -> None:
    change = api_snapshot.difference(kind)
    assert not change, f"{kind} has changed:\n{change}{TO_DO.format(renew=api_snapshot.RENEW)}"


def test_there_is_no_snapshot_of_what_is_no_kind() -> None:
    assert {path.stem for path in api_snapshot.FOLDER.iterdir()} == set(api_snapshot.KINDS)


def test_the_compatibility_page_speaks_of_every_snapshot() -> None:
    text = COMPATIBILITY.read_text(encoding="utf-8")
    for kind in api_snapshot.KINDS:
        assert f"snapshots/{kind}.txt" in text
    assert api_snapshot.RENEW in text


SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal, overload

Colour = Literal["red", "blue"]

class _Shared:
    size: int = 1

    def both(self, /, a: int, *rest: str, colour: Colour = "red", **more: object) -> None: ...

@dataclass(frozen=True)
class Thing(_Shared):
    name: "str"
    _hidden: int = 0

    @property
    def long(self) -> bool: ...

    @overload
    def get(self, key: int) -> int: ...
    @overload
    def get(self, key: str) -> str: ...
    def get(self, key: int | str = 0) -> int | str: ...

    @classmethod
    async def made(cls) -> Thing: ...

    def _own(self) -> None: ...
"""

SHOWN = """\
@dataclass(frozen=True)
class Thing:
    size: int = 1
    name: str
    def both(a: int, *rest: str, colour: Colour = 'red', **more: object) -> None
    def get(key: int | str = 0) -> int | str
    long: bool  # property
    @classmethod
    async def made() -> Thing"""


@pytest.fixture
def thing(monkeypatch: pytest.MonkeyPatch) -> api_source.Found:
    """A class of a module that exists only here."""
    module = api_source.Module("cascade.example")
    api_source.fill(module, ast.parse(SOURCE).body)
    monkeypatch.setattr(api_source, "read", lambda _: module)
    found = api_source.find("cascade.example", "Thing")
    assert found is not None
    return found


def test_a_class_is_shown_with_what_it_inherits_from_inner_classes(
    thing: api_source.Found,
) -> None:
    assert api_source.show(thing, "Thing", frozenset()) == SHOWN


def test_of_a_public_base_only_the_name_is_shown(thing: api_source.Found) -> None:
    text = api_source.show(thing, "Thing", frozenset({"cascade.example._Shared"}))
    assert "class Thing(_Shared):" in text
    assert "size" not in text


def test_types_in_signatures_are_shown_too(thing: api_source.Found) -> None:
    named = api_source.named(thing, SHOWN)
    assert set(named) == {"Colour", "Thing"}
    assert api_source.show(named["Colour"], "Colour", frozenset()) == (
        "Colour = Literal['red', 'blue']"
    )


def test_a_renamed_option_is_a_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "environment.txt").write_text("CASCADE_SMALL\nCASCADE_GONE\n")
    monkeypatch.setattr(api_snapshot, "FOLDER", tmp_path)
    monkeypatch.setitem(api_snapshot.KINDS, "environment", lambda: "CASCADE_SMALL\nCASCADE_NEW\n")
    change = api_snapshot.difference("environment").splitlines()
    assert "-CASCADE_GONE" in change
    assert "+CASCADE_NEW" in change
    assert api_snapshot.main(["--check", "environment"]) == 1
    assert api_snapshot.main(["environment"]) == 0
    assert api_snapshot.main(["--check", "environment"]) == 0

"""What SECURITY.md names is there: files, commands, options, keys of the configuration, routes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import floors
from cascade.cli import app as commands
from cascade.service.config import CascadeConfig, LedgerConfig, ListenConfig, ServiceConfig
from cascade.service.protocols.parameters import OURS

TEXT = (floors.ROOT / "SECURITY.md").read_text(encoding="utf-8")
WORDS = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
LINKS = sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT)))
SECTIONS: Mapping[str, type[BaseModel]] = {"listen": ListenConfig, "ledger": LedgerConfig}


def test_every_link_leads_to_a_file() -> None:
    assert "docs/hostile.md" in LINKS
    assert "docs/service.md" in LINKS
    assert not [link for link in LINKS if not (floors.ROOT / link).exists()]


@pytest.mark.parametrize("word", WORDS)
def test_every_name_is_there(word: str) -> None:
    assert any(known(word) for known in KINDS), f"nobody knows {word!r}"


@pytest.mark.parametrize(
    "word",
    ["cascade fly", "cascade serve --nothing", "make nothing", "listen.nothing", "docs/nothing.md",
     "/nothing", "X-Nothing-At-All", "nothing_at_all"],
)  # fmt: skip
def test_what_is_not_there_is_not_known(word: str) -> None:
    assert not any(known(word) for known in KINDS)


def _is_file(word: str) -> bool:
    return "/" in word and not word.startswith("/") and (floors.ROOT / word).exists()


def _is_file_at_the_top(word: str) -> bool:
    return "." in word and (floors.ROOT / word).is_file()


def _is_command(word: str) -> bool:
    name, *rest = word.split()
    if name != "cascade" or not rest:
        return False
    command: Any = typer.main.get_command(commands)
    options: set[str] = set()
    for part in rest:
        if part.startswith("--"):
            if part not in options:
                return False
            continue
        children = getattr(command, "commands", {})
        if part not in children:
            return False
        command = children[part]
        options = {name for option in command.params for name in option.opts}
    return True


def _is_make(word: str) -> bool:
    makefile = (floors.ROOT / "Makefile").read_text(encoding="utf-8")
    return word.startswith("make ") and f"\n{word.removeprefix('make ')}: " in makefile


def _is_key(word: str) -> bool:
    section, dot, name = word.partition(".")
    model = SECTIONS.get(section, ServiceConfig) if dot else ServiceConfig
    wanted = name if dot else word
    return wanted in model.model_fields or (not dot and wanted in CascadeConfig.model_fields)


def _is_refused_parameter(word: str) -> bool:
    return word in OURS


def _is_route(word: str) -> bool:
    return word.startswith("/") and any(f'"{word}"' in text for text in _sources("service"))


def _is_value(word: str) -> bool:
    """A word of the program's own: a header, a value, a scorer, a provider."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z-]+:?", word) is not None
    return plain and any(
        f'"{form}"' in text or f"`{form}`" in text or f'"{form}' in text
        for text in (*_sources("service"), *_sources("evaluation"), *_sources("models"))
        for form in (word, word.lower())
    )


def _is_built_in(word: str) -> bool:
    return word in ("eval",)  # of Python, named as what is not done


def _sources(folder: str) -> Iterator[str]:
    for path in sorted((floors.ROOT / "cascade" / folder).rglob("*.py")):
        yield path.read_text(encoding="utf-8")


KINDS = (
    _is_file,
    _is_file_at_the_top,
    _is_command,
    _is_make,
    _is_key,
    _is_refused_parameter,
    _is_route,
    _is_value,
    _is_built_in,
)

"""The rules for what is personal."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any, ClassVar

import pytest
from environments import NoEnvironmentError, python_with
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade import Cascade
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.privacy import looks_personal, presidio
from cascade.testing import ScriptedModel, reply


@pytest.mark.parametrize(
    "text",
    [
        "write to bob@example.org",
        "my card is 4111 1111 1111 1111",
        "call 030-1234 5678",
        "the key is sk-abcdefghijkl",
        "Authorization: Bearer abc",
    ],
)
def test_addresses_keys_and_long_numbers_are_personal(text: str) -> None:
    assert looks_personal([HumanMessage(text)])
    assert looks_personal([SystemMessage("Be brief."), HumanMessage(text), HumanMessage("Well?")])
    assert looks_personal([HumanMessage([{"type": "text", "text": text}])])
    assert looks_personal([ToolMessage(text, tool_call_id="1")])


@pytest.mark.parametrize("text", ["", "What is 12345 times 3?", "Since 2024-01-31, pi is 3.14159"])
def test_plain_questions_are_not(text: str) -> None:
    assert not looks_personal([HumanMessage(text)])
    assert not looks_personal([HumanMessage(["Well: ", {"type": "text", "text": text}])])


def call(to: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "send", "args": {"to": to}, "id": "1"}])


def test_tool_calls_are_read() -> None:
    assert looks_personal([call("bob@example.org")])
    assert not looks_personal([call("everybody")])
    block: Any = {"type": "tool_use", "id": "1", "name": "send", "input": {"to": "everybody"}}
    assert not looks_personal([AIMessage([block])])
    assert looks_personal([AIMessage([{**block, "input": {"to": "bob@example.org"}}])])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/me.png"}},
        {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        {"type": "text", "text": None},
    ],
)
def test_what_cannot_be_read_counts_as_personal(block: Any) -> None:
    assert looks_personal([HumanMessage([{"type": "text", "text": "Who is this?"}, block])])


# --- Presidio


class Names:
    """Stands for Presidio's analyzer with a language model: knows two names and one place."""

    KNOWN: ClassVar = {
        "bob": ("PERSON", 0.85),
        "berlin": ("LOCATION", 0.6),
        "today": ("DATE_TIME", 0.9),
    }

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def get_supported_entities(self, language: str) -> list[str]:
        return ["DATE_TIME", "LOCATION", "PERSON"] if language == "en" else []

    def analyze(
        self, text: str, language: str, *, entities: list[str], score_threshold: float
    ) -> list[str]:
        assert language == "en"
        self.threads.add(threading.get_ident())
        words = text.lower().split()
        found = [
            name
            for word, (name, score) in self.KNOWN.items()
            if word in words and score >= score_threshold
        ]
        return [name for name in found if name in entities]


@pytest.mark.parametrize(
    ("text", "options", "personal"),
    [
        ("Did Bob pay?", {}, True),
        ("Is it cold in Berlin now?", {}, True),
        ("Is it cold in Berlin now?", {"threshold": 0.7}, False),
        ("Is it cold in Berlin now?", {"entities": ["PERSON"]}, False),
        ("Is it paid today ?", {}, False),
        ("Is it paid today ?", {"entities": ["DATE_TIME"]}, True),
        ("", {}, False),
    ],
)
async def test_what_an_analyzer_finds_is_personal(text: str, options: Any, personal: bool) -> None:
    rule = presidio(analyzer=Names(), **options)
    assert await rule([HumanMessage(text)]) is personal
    assert await rule([HumanMessage(text), AIMessage("Well"), HumanMessage("And?")]) is personal


async def test_the_analyzer_reads_tool_calls_and_takes_what_it_cannot_read_for_personal() -> None:
    rule = presidio(analyzer=Names())
    assert not await rule([call("everybody")])
    assert await rule(
        [AIMessage("", tool_calls=[{"name": "f", "args": {"to": " bob "}, "id": "1"}])]
    )
    image: Any = {"type": "image_url", "image_url": {"url": "https://example.org/me.png"}}
    assert await rule([HumanMessage([image])])


async def test_the_analyzer_does_not_hold_up_the_event_loop() -> None:
    analyzer = Names()
    await presidio(analyzer=analyzer)([HumanMessage("Did Bob pay?")])
    assert analyzer.threads
    assert threading.get_ident() not in analyzer.threads


def test_an_analyzer_is_the_rule_of_a_cascade() -> None:
    small = ScriptedModel([reply("local", probability=0.3)], returns_logprobs=True)
    large = ScriptedModel(["remote"], local=False)
    cascade = Cascade(small, large, private=presidio(analyzer=Names()))
    answers = [cascade.invoke(text).answer for text in ("Did Bob pay?", "Did it rain?")]
    assert answers == ["local", "remote"]
    assert len(large.requests) == 1


def test_when_the_analyzer_fails_nothing_is_sent() -> None:
    class Broken(Names):
        def analyze(self, *args: Any, **kwargs: Any) -> list[str]:
            raise OSError("the model is gone")

    large = ScriptedModel(["remote"], local=False)
    cascade = Cascade(ScriptedModel("x"), large, private=presidio(analyzer=Broken()))
    with pytest.raises(OSError, match="the model is gone"):
        cascade.invoke("Did Bob pay?")
    assert large.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"threshold": float("nan")}, "between 0 and 1"),
        ({"entities": ["PERSON", "SHOE_SIZE"]}, "does not find SHOE_SIZE.*DATE_TIME, LOCATION"),
        ({"entities": []}, "does not find anything"),
        ({"language": "tlh"}, "It knows: nothing"),
    ],
)
def test_what_cannot_be_found_is_refused_when_the_rule_is_made(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        presidio(analyzer=Names(), **options)


def test_without_presidio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[pii\]"):
        presidio()


REAL = """
import asyncio, json, sys
from langchain_core.messages import HumanMessage
from cascade.errors import ConfigurationError
from cascade.privacy import presidio

asked = json.load(sys.stdin)
rule, loose = presidio(), presidio(threshold=0.01)
found = [asyncio.run(rule([HumanMessage(text)])) for text in asked]
loosely = [asyncio.run(loose([HumanMessage(text)])) for text in asked]
german = asyncio.run(presidio(language="de")([HumanMessage("an bob@example.org")]))
only = asyncio.run(presidio(entities=["IBAN_CODE"])([HumanMessage("to bob@example.org")]))
try:
    presidio(entities=["PERSON"])
except ConfigurationError as error:
    refused = str(error)
print(json.dumps([found, loosely, german, only, refused]))
"""

ASKED = {
    "write to bob@example.org": True,
    "my card is 4111 1111 1111 1111": True,
    "call +49 30 901820": True,
    "from DE89 3704 0044 0532 0130 00, please": True,
    "the host is 10.0.0.1": True,
    "What is the capital of Australia?": False,
    "What is 123456789 times 2?": False,
    "What happened on 1989-11-09?": False,
    "Summarise https://example.org/news": False,
    "Did Bob Miller of Berlin pay?": False,  # names need a language model
}


def test_presidio_itself_finds_by_patterns_what_is_personal() -> None:
    """Without a language model, of which nothing may be downloaded."""
    try:
        python = python_with("presidio-analyzer>=2.2.366,<3")
    except NoEnvironmentError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [python, "-c", REAL],
        input=json.dumps(list(ASKED)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, loosely, german, only, refused = json.loads(done.stdout)
    assert dict(zip(ASKED, found, strict=True)) == ASKED
    assert loosely[list(ASKED).index("What is 123456789 times 2?")]
    assert (german, only) == (True, False)
    assert "PERSON" in refused
    assert "language model" in refused

"""Hostile texts, to try a cascade of yours with.

for attack in load_attacks(target="self-check"):
    draft = attack.written(question="Capital of Australia?", answer="It is Sydney")
"""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

from cascade.state import Record

Target = Literal["self-check", "log-prob", "judge", "tool", "cost"]
"""The check of a draft, its score by log-probs, the judge of audits, a tool's risk, or the bill."""


class Attack(Record):
    """A text of somebody's (`place`) about a `{question}` and a wrong `{answer}`, with `padding` so
    many `times`. A `family` is of one idea."""

    id: str
    family: str
    target: Target
    place: Literal["draft", "question", "tool_result"]
    text: str
    padding: str = ""
    times: int = 0

    def written(self, *, question: str, answer: str) -> str:
        """The text about a question and a wrong answer to it."""
        parts = self.text.replace("{padding}", self.padding * self.times)
        # In this order, and at once: an answer may hold the words "{question}".
        pieces = parts.split("{question}")
        return question.join(piece.replace("{answer}", answer) for piece in pieces)


def load_attacks(target: Target | None = None) -> tuple[Attack, ...]:
    """All attacks, or those with one target."""
    text = files("cascade.testing").joinpath("attacks.jsonl").read_text(encoding="utf-8")
    attacks = (Attack.model_validate_json(line) for line in text.split("\n") if line)
    return tuple(attack for attack in attacks if target in (None, attack.target))

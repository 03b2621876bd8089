"""How the questions of the demo are put: a few examples per kind, as a conversation.

A model of 135M parameters does not follow instructions; it continues patterns. Each kind
therefore shows its pattern with answers as short as the small model can manage, since words that
only repeat the question would count as certain and hide how sure it is of the answer itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

MAX_TOKENS = 24
"""Enough for every answer of the examples' form, and little lost when a model rambles."""

EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "sentiment": (
        ('Is the customer happy or angry? "I enjoyed every minute."', "The customer is happy"),
        ('Is the customer happy or angry? "The worst meal of my life."', "The customer is angry"),
        ('Is the customer happy or angry? "It broke on the first day."', "The customer is angry"),
        ('Is the customer happy or angry? "The nurses were so friendly."', "The customer is happy"),
        ('Is the customer happy or angry? "What a waste of money."', "The customer is angry"),
        ('Is the customer happy or angry? "My children loved it."', "The customer is happy"),
        ('Is the customer happy or angry? "Rude staff and dirty tables."', "The customer is angry"),
        ('Is the customer happy or angry? "A perfect evening."', "The customer is happy"),
    ),
    "opposite": (
        ('What is the opposite of "hot"?', "The opposite of hot is cold."),
        ('What is the opposite of "tall"?', "The opposite of tall is short."),
        ('What is the opposite of "clean"?', "The opposite of clean is dirty."),
        ('What is the opposite of "success"?', "The opposite of success is failure."),
    ),
    "capital": (
        ("What is the capital of Spain?", "It is Madrid"),
        ("What is the capital of India?", "It is New Delhi"),
        ("What is the capital of England?", "It is London"),
        ("What is the capital of Chile?", "It is Santiago"),
    ),
    "arithmetic": (
        ("3 + 5", "= 8"),
        ("30 - 12", "= 18"),
        ("6 x 7", "= 42"),
        ("40 / 5", "= 8"),
        ("17 + 22", "= 39"),
        ("8 - 5", "= 3"),
        ("4 x 20", "= 80"),
        ("18 / 3", "= 6"),
    ),
    "odd one out": (
        ("lion, tiger, bicycle, wolf", "bicycle does not belong"),
        ("plate, orange, lemon, grape", "plate does not belong"),
        ("pen, pencil, crayon, cheese", "cheese does not belong"),
        ("Rome, winter, London, Madrid", "winter does not belong"),
    ),
    "conversion": (
        ("How many minutes are in 3 hours?", "3 hours is 180 minutes."),
        ("How many days are in 2 weeks?", "2 weeks is 14 days."),
        ("How many centimetres are in 2 metres?", "2 metres is 200 centimetres."),
        ("How many eggs are in 1 dozen?", "1 dozen is 12 eggs."),
    ),
    "fact": (
        ("What colour is coal?", "The answer is black"),
        ("What do sheep give us?", "The answer is wool"),
        ("How many ears does a rabbit have?", "The answer is two"),
        ("Who invented the telephone?", "The answer is Alexander Graham Bell"),
        ("In which country is the Great Wall?", "The answer is China"),
        ("What is a baby sheep called?", "The answer is lamb"),
    ),
    "plural": (
        ('What is the plural of "cat"?', "It is cats"),
        ('What is the plural of "fox"?', "It is foxes"),
        ('What is the plural of "lady"?', "It is ladies"),
        ('What is the plural of "louse"?', "It is lice"),
    ),
}
"""Per kind: questions with the answers that show the form."""


def to_prompt(kind: str, question: str) -> list[BaseMessage]:
    """The conversation that puts a question of a kind to any model, examples first."""
    messages: list[BaseMessage] = []
    for asked, answered in EXAMPLES[kind]:
        messages += [HumanMessage(asked), AIMessage(answered)]
    return [*messages, HumanMessage(question)]

"""Two streams of project-written questions: one that repeats itself, and one that does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ITEMS = [
    "kettle",
    "lamp",
    "jacket",
    "headset",
    "blender",
    "tent",
    "backpack",
    "monitor",
    "stroller",
    "drill",
    "rug",
    "mixer",
]
NAMES = [
    "Ada",
    "Omar",
    "Lin",
    "Petra",
    "Joao",
    "Mina",
    "Erik",
    "Sana",
    "Tomas",
    "Ines",
    "Yuki",
    "Paul",
    "Rosa",
    "Ivan",
    "Chen",
    "Lea",
    "Max",
    "Nia",
    "Otto",
    "Uma",
]
TICKETS = (
    ("the {item} arrived with a crack in it", "ORANGE"),
    ("the {item} stopped working after a week", "ORANGE"),
    ("you charged me twice for the {item}", "VIOLET"),
    ("please send a receipt for the {item}", "VIOLET"),
    ("where is my {item}, it should be here since Monday", "TEAL"),
    ("I cannot log in to see my order of the {item}", "GREY"),
    ("can I get the {item} in another colour", "LIME"),
)
SHELVES = {item: f"{'ABCDEF'[n % 6]}{10 + n * 7 % 90}" for n, item in enumerate(ITEMS)}
DAYS = {"student": "14", "member": "60", "guest": "7", "reseller": "30"}
CODES = {
    "Legal": "LX",
    "Payroll": "PR9",
    "Kitchen": "KT2",
    "Garage": "GG",
    "Archive": "AV7",
    "Reception": "R1",
    "Workshop": "WS4",
}
CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Egypt": "Cairo",
    "Germany": "Berlin",
    "Russia": "Moscow",
    "China": "Beijing",
    "Greece": "Athens",
    "Portugal": "Lisbon",
}
WORDS = [
    "amber",
    "basil",
    "cedar",
    "delta",
    "ember",
    "flint",
    "grove",
    "hazel",
    "ivory",
    "jolly",
    "koala",
    "lemon",
    "maple",
    "noble",
    "ocean",
    "pearl",
    "quill",
    "raven",
    "solar",
    "tulip",
    "umber",
    "vivid",
    "wheat",
    "xenon",
    "yacht",
    "zebra",
]
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a stream.

    Attributes:
        kind: which of its five kinds it is of.
        question: what is asked.
        answer: what is right.
    """

    kind: str
    question: str
    answer: str


Maker = Callable[[random.Random], Asked]


def ticket(draw: random.Random) -> Asked:
    """Which queue a message belongs to: a rule of a house that no model knows."""
    said, queue = draw.choice(TICKETS)
    text = f"{draw.choice(NAMES)} writes: {said.format(item=draw.choice(ITEMS))}"
    return Asked("ticket", f"Which queue takes this ticket? {text}", queue)


def shelf(draw: random.Random) -> Asked:
    """Where something is: a fact of a house for each of twelve things."""
    item, name = draw.choice(ITEMS), draw.choice(NAMES)
    said = draw.choice(
        (
            "{name} asks: on which shelf is the {item}?",
            "Tell {name} the shelf of the {item}.",
            "{name} needs the {item}. Which shelf?",
        )
    )
    return Asked("shelf", said.format(item=item, name=name), SHELVES[item])


def policy(draw: random.Random) -> Asked:
    """A rule of a house with four cases."""
    who, item, name = draw.choice(list(DAYS)), draw.choice(ITEMS), draw.choice(NAMES)
    asked = f"{name} asks: within how many days may a {who} return a {item}?"
    return Asked("policy", asked, DAYS[who])


def department(draw: random.Random) -> Asked:
    """A code of a house for each of seven departments."""
    old, new = draw.sample(list(CODES), 2)
    asked = f"{draw.choice(NAMES)} moves from {old} to {new}. What is the code of {new}?"
    return Asked("department", asked, CODES[new])


def capital(draw: random.Random) -> Asked:
    """What a small model knows by itself."""
    country = draw.choice(list(CAPITALS))
    name, item = draw.choice(NAMES), draw.choice(ITEMS)
    asked = f"{name} sends a {item} to {country}. What is the capital of {country}?"
    return Asked("capital", asked, CAPITALS[country])


def total(draw: random.Random) -> Asked:
    """A sum of two numbers."""
    a, b = draw.randint(10, 999), draw.randint(10, 999)
    return Asked("sum", f"What is {a} + {b}?", str(a + b))


def larger(draw: random.Random) -> Asked:
    """The larger one of two numbers."""
    a, b = draw.sample(range(100, 9_999), 2)
    return Asked("larger", f"Which number is larger, {a} or {b}?", str(max(a, b)))


def backwards(draw: random.Random) -> Asked:
    """Two words in the other order."""
    a, b, c = draw.sample(WORDS, 3)
    return Asked("order", f"Say these words in the other order: {a} {b} {c}", f"{c} {b} {a}")


def extension(draw: random.Random) -> Asked:
    """A fact about somebody of whom nobody has asked before."""
    name, number = draw.choice(NAMES), draw.randint(1_000, 9_999)
    last = "".join(draw.choice(WORDS)[:3] for _ in range(2)).capitalize()
    return Asked("extension", f"What is the telephone extension of {name} {last}?", str(number))


def weekday(draw: random.Random) -> Asked:
    """A day so many days after another."""
    day, later = draw.randrange(7), draw.randint(2, 400)
    asked = f"Today is {WEEK[day]}. Which day is it in {later} days?"
    return Asked("weekday", asked, WEEK[(day + later) % 7])


STREAMS: dict[str, tuple[Maker, ...]] = {
    "repeating": (ticket, shelf, policy, department, capital),
    "unrepeated": (total, larger, backwards, extension, weekday),
}
"""Five kinds each. Of the second no question comes twice, and
nothing that is asked in it is told by the answer to another one."""


def stream(name: str, seed: int) -> Iterator[Asked]:
    """Questions of a stream without an end; the same for the same seed."""
    draw = random.Random(f"{name}/{seed}")
    seen: set[str] = set()
    while True:
        asked = draw.choice(STREAMS[name])(draw)
        if name == "unrepeated" and asked.question in seen:
            continue
        seen.add(asked.question)
        yield asked

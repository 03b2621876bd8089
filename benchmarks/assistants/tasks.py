"""Thirty tasks, the data that they are about, and how it is checked that one is solved."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SHOP = """
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price REAL, stock INTEGER);
INSERT INTO products VALUES
 (1, 'Lamp', 'light', 24.5, 12), (2, 'Chair', 'furniture', 80, 3), (3, 'Desk', 'furniture', 199, 0),
 (4, 'Kettle', 'kitchen', 35, 20), (5, 'Candle', 'light', 4, 150), (6, 'Shelf', 'furniture', 65, 8),
 (7, 'Pan', 'kitchen', 42, 17);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
INSERT INTO customers VALUES
 (1, 'Ada', 'Lyon'), (2, 'Bob', 'Oslo'), (3, 'Carla', 'Porto'), (4, 'Dan', 'Oslo'),
 (5, 'Eve', 'Turin');
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER,
 quantity INTEGER);
INSERT INTO orders VALUES
 (1, 1, 1, 2), (2, 2, 5, 40), (3, 3, 3, 1), (4, 2, 2, 4), (5, 5, 7, 1), (6, 1, 6, 3);
"""
FILES = {
    "budget.txt": "Rent: 900\nFood: 310\nTravel: 150\n",
    "contacts.txt": "Bob Lind, phone 555-0142\nCarla Nunes, phone 555-0199, carla@example.com\n",
    "log.txt": "09:14 started\n09:20 error E317: disk is full\n09:21 stopped\n",
    "meeting.txt": "The meeting is on Tuesday at 14:30 in room Birch. Bring an umbrella.\n",
    "todo.txt": "buy milk\ncall the bank\n",
    "trip.txt": "Hotel in Lisbon, 3 nights, 420 euros\nTrain to Porto, 25 euros\n",
}


@dataclass(frozen=True)
class Task:
    """One request to an agent.

    Attributes:
        id: its name in the tables.
        kind: whose task it is.
        request: what the user writes.
        answer: a pattern that the final answer has to match; None where the state decides.
        state: what has to be so afterwards, given the database or the folder.
        steps: the fewest calls of the model that solve it, the answer among them.
    """

    id: str
    kind: Literal["sql", "files"]
    request: str
    answer: str | None = None
    state: Callable[[Path], bool] | None = None
    steps: int = 2

    def solved(self, place: Path, answer: str) -> bool:
        """Whether the answer and what the agent left behind are right."""
        said = self.answer is None or re.search(self.answer, answer, re.IGNORECASE) is not None
        unchanged = shop_is if self.kind == "sql" else folder_is
        state = self.state or unchanged()
        return said and state(place)

    def prepare(self, folder: Path) -> Path:
        """The data that it is about, fresh, in an empty folder."""
        if self.kind == "files":
            for name, text in FILES.items():
                (folder / name).write_text(text, encoding="utf-8")
            return folder
        path = folder / "shop.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(SHOP)
        return path


def shop_is(*changes: str) -> Callable[[Path], bool]:
    """Whether the database holds what it held in the beginning, after these statements."""

    def check(path: Path) -> bool:
        with (
            closing(sqlite3.connect(":memory:")) as wanted,
            closing(sqlite3.connect(path)) as found,
        ):
            wanted.executescript(SHOP)
            for change in changes:
                wanted.execute(change)
            wanted.commit()
            return list(wanted.iterdump()) == list(found.iterdump())

    return check


def folder_is(**changes: str) -> Callable[[Path], bool]:
    """Whether the folder holds its files and these (`name` for `name.txt`), and no others."""
    wanted = FILES | {f"{name}.txt": text for name, text in changes.items()}

    def check(folder: Path) -> bool:
        found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
        return {name: text.split() for name, text in found.items()} == {
            name: text.split() for name, text in wanted.items()
        }

    return check


def number(value: str) -> str:
    """A pattern for an answer with this number in it and no other."""
    return rf"^\D*{re.escape(value)}(?:0|\.0+)?\D*$"


def alone(value: str, *others: str) -> str:
    """A pattern for an answer that says this, and none of the others beside it."""
    return rf"^(?!.*(?:{'|'.join(others)})).*{value}"


NAMES = ("Lamp", "Chair", "Kettle", "Candle", "Shelf", "Pan")
TASKS: Sequence[Task] = (
    Task("count products", "sql", "How many products are there?", number("7")),
    Task("price of the lamp", "sql", "What is the price of the Lamp?", number("24.5")),
    Task("stock of the chair", "sql", "How many Chairs are in stock?", number("3")),
    Task(
        "city of Ada",
        "sql",
        "Which city does the customer Ada live in?",
        alone("Lyon", "Oslo", "Porto", "Turin"),
    ),
    Task("customers in Oslo", "sql", "How many customers live in Oslo?", number("2")),
    Task(
        "category of the kettle",
        "sql",
        "What is the category of the Kettle?",
        alone("kitchen", "light", "furniture"),
    ),
    Task("most expensive", "sql", "Which product has the highest price?", alone("Desk", *NAMES)),
    Task("all ordered", "sql", "What is the sum of quantity over all orders?", number("51")),
    Task("out of stock", "sql", "Which product has a stock of 0?", alone("Desk", *NAMES)),
    Task(
        "furniture",
        "sql",
        "Which products are in the category furniture?",
        alone("(?=.*Chair)(?=.*Desk)(?=.*Shelf)", "Lamp", "Candle", "Kettle", "Pan"),
    ),
    Task(
        "who ordered the pan",
        "sql",
        "What is the name of the customer who ordered the Pan?",
        alone("Eve", "Ada", "Bob", "Carla", "Dan"),
    ),
    Task("orders of Bob", "sql", "How many orders did the customer Bob make?", number("2")),
    Task(
        "set the stock",
        "sql",
        "Set the stock of the Desk to 9.",
        state=shop_is("UPDATE products SET stock = 9 WHERE name = 'Desk'"),
    ),
    Task(
        "add a customer",
        "sql",
        "Add a customer with the id 6 and the name Zoe, who lives in Rome.",
        state=shop_is("INSERT INTO customers VALUES (6, 'Zoe', 'Rome')"),
    ),
    Task(
        "raise a price",
        "sql",
        "Set the price of the Candle to 5, then tell me the sum of price over all products.",
        number("450.5"),
        shop_is("UPDATE products SET price = 5 WHERE name = 'Candle'"),
        steps=3,
    ),
    Task("count files", "files", "How many files are in the folder?", rf"{number('6')}|\bsix\b"),
    Task("rent", "files", "How high is the rent in budget.txt?", number("900")),
    Task("time of the meeting", "files", "At what time is the meeting in meeting.txt?", "14:30"),
    Task("room of the meeting", "files", "In which room is the meeting in meeting.txt?", "Birch"),
    Task("first item", "files", "What is the first line of todo.txt?", "milk(?!.*bank)"),
    Task(
        "phone of Bob",
        "files",
        "Search for Bob. What is his phone number?",
        alone("555-0142", "555-0199"),
    ),
    Task("mail of Carla", "files", "What is Carla's e-mail address?", "carla@example"),
    Task("the error", "files", "Which error code is in the log?", "E317"),
    Task(
        "umbrella",
        "files",
        "Which file contains the word umbrella?",
        alone(r"meeting\.txt", "trip", "todo", "log", "budget", "contacts"),
    ),
    Task(
        "hotel", "files", "How many euros does the hotel in Lisbon cost?", alone("420", "25 euros")
    ),
    Task(
        "write hello",
        "files",
        "Write the text good morning into the file hello.txt.",
        state=folder_is(hello="good morning"),
    ),
    Task(
        "write a number",
        "files",
        "Create the file answer.txt with the text 42.",
        state=folder_is(answer="42"),
    ),
    Task(
        "copy",
        "files",
        "Read todo.txt and write the same text into the file copy.txt.",
        state=folder_is(copy=FILES["todo.txt"]),
        steps=3,
    ),
    Task(
        "extract",
        "files",
        "Read budget.txt and write the number of the rent into the file rent.txt.",
        state=folder_is(rent="900"),
        steps=3,
    ),
    Task(
        "sum",
        "files",
        "Add food and travel of budget.txt and write the sum into the file sum.txt.",
        state=folder_is(sum="460"),
        steps=3,
    ),
)

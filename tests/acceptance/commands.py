"""The command `cascade` as it is installed, and worlds whose truth is known."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

from cascade import Price
from tests.acceptance import setups
from tests.acceptance.upstream import Answer, Seen, Upstream

MAIN = "import sys; from cascade.cli import main; sys.argv[0] = 'cascade'; main()"
MODELS = ("--small", "ollama:small", "--large", "ollama:large")


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        """Standard output as one JSON document; NaN and Infinity are none."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


def cascade(
    *arguments: object, code: int | None = 0, stdin: str = "", tty: bool = False, **env: str
) -> Done:
    """Run a command as it is typed, at a terminal or not, and compare its exit code."""
    (script,) = entry_points(group="console_scripts", name="cascade")
    out, err, ended = io.StringIO(), io.StringIO(), 0
    typed = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    for stream in (out, err, typed):
        stream.isatty = lambda: tty  # type: ignore[method-assign]
    with (
        mock.patch.object(sys, "argv", ["cascade", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", typed),
        mock.patch.dict("os.environ", {"COLUMNS": "200", **env}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            script.load()()
        except SystemExit as leaving:
            ended = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    done = Done(out.getvalue(), err.getvalue(), ended)
    assert code in (None, ended), f"{ended}: {done.out[-2000:]}{done.err[-2000:]}"
    return done


def start(*arguments: object, **env: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return setups.start(MAIN, *arguments, **env)


# --- a world whose truth is known


@dataclass(frozen=True)
class World:
    """Examples, a calibration made of them, and the models that it was made with."""

    upstream: Upstream
    examples: Path
    calibration: Path
    made: Done

    def tiers(self, **changes: Any) -> tuple[Any, Any]:
        price = Price(input=1, output=1)
        small, large = (
            self.upstream.tier(name, provider="ollama", price=price) for name in ("small", "large")
        )
        return replace(small, **changes), large


def chance(i: int, salt: str = "") -> float:
    """Evenly spread over (0, 1), and the same on every machine."""
    return (int(sha256(f"{salt}{i}".encode()).hexdigest()[:8], 16) + 0.5) / 2**32


def sure(i: int) -> float:
    """P(the draft about country i is right)."""
    return 0.2 + 0.795 * chance(i)


def says(i: int) -> float:
    """The probability that the small model gives its draft: it is far too sure of itself."""
    return float(sure(i) ** 0.3)


def right(i: int) -> bool:
    return chance(i, "right") < sure(i)


def play(upstream: Upstream) -> None:
    """A small model that is too sure of itself, and a large one that is always right."""

    def drafts(seen: Seen) -> Answer:
        i = int(seen.last.split()[1].rstrip("?"))
        return Answer(f"city {i if right(i) else 'none'}", p=says(i))

    upstream.says("small", drafts)
    upstream.says("large", lambda seen: f"city {seen.last.split()[1].rstrip('?')}")


def questions(path: Path, numbers: Iterable[int], **more: Any) -> Path:
    """A file of questions with their right answers."""
    rows = [{"id": f"q{i}", "question": f"Capital {i}?", "reference": f"city {i}"} for i in numbers]
    path.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    return path


def outcomes(path: Path, rows: Iterable[tuple[float, bool]], **large: Any) -> Path:
    """Recorded answers: of each row the draft's probability, and whether it is right."""
    written = []
    for i, (p, right) in enumerate(rows):
        usage: dict[str, Any] = {"input_tokens": 20, "output_tokens": 2}
        draft = {**usage, "correct": float(right), "cost_usd": 0.00001, "confidence": p}
        draft |= {"features": {"logprob_mean": p - 1}, "output": "a"}
        answer = {**usage, "correct": 1.0, "cost_usd": 0.0001, "output": "b", **large}
        models = {"ollama:small": draft, "ollama:large": answer}
        row = {"dataset": "made", "id": f"q{i}", "prompt": f"question {i}", "models": models}
        written.append(json.dumps(row) + "\n")
    path.write_text("".join(written))
    return path


def calibrate(file: Path, upstream: Upstream, *options: object, code: int | None = 0) -> Done:
    """Calibrate on a file; what is made stands beside it, in `made.json`."""
    given = ("calibrate", file, *MODELS, "--out", file.with_name("made.json"), *options)
    return cascade(*given, code=code, OLLAMA_HOST=upstream.url)


@contextmanager
def calibrated(folder: Path, n: int, *options: object) -> Iterator[World]:
    """A world with a calibration made of `n` examples by `cascade calibrate`."""
    with Upstream() as upstream:
        play(upstream)
        examples = questions(folder / "e.jsonl", range(n))
        made = calibrate(examples, upstream, *options, "--json")
        yield World(upstream, examples, folder / "made.json", made)

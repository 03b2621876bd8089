"""The command to type after an error, from what was typed and what went wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cascade._masking import mask_keys

__all__ = ["TYPED", "Typed", "next_command"]

LONGEST = 200
"""Characters of a command that is worth repeating."""

CLOSE = 0.75
"""How alike the names of two files are, from 0 to 1, if one may have been meant for the other."""

MAKES_A_LEDGER = "cascade batch questions.csv --output answers.csv --ledger sqlite:///ledger.db"
MAKES_A_CONFIGURATION = "cascade serve --example > cascade.yaml"
RUNS_A_SERVICE = ("serve", "keys", "calibration", "lessons", "teach")
"""Commands whose first argument may be a service's configuration."""

_QUOTED = re.compile(r"`((?:cascade|export|iconv|ollama|pip|python) [^`]+)`")
_PIP = re.compile(r"""\bpip install (?:-{1,2}[\w-]+ )*(?:"[^"]+"|'[^']+'|[\w-]+)""")
_MEANT = re.compile(r"(?P<wrong>'[^']+'|\S+:).*\b[Dd]id you mean '(?P<right>[^']+)'", re.DOTALL)
_OPTION = re.compile(r"No such option: (?P<wrong>\S+) \(Possible options: (?P<right>[^,)]+)")
_KEY = re.compile(
    r"\bset ([A-Z][A-Z0-9_]*_KEY)\b|environment variable ([A-Z][A-Z0-9_]*) is not set"
)
_LINE_OF = re.compile(r"^(?P<file>[^:\n]+\.(?:ya?ml|toml))(?::\d+)?: ", re.MULTILINE)
_NO_FILE = re.compile(
    r"(?P<file>\S+) (?:cannot be read\b.*No such file|does not exist)"
    r"|there is no file (?P<there>\S+?)\.?$"
)
_AGAIN = re.compile(r"\b(?:Run|run)\b.*\bagain\b|took longer|rate limit|\b429\b|interrupted;")


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed.

    Attributes:
        arguments: behind `cascade`.
        command: the command among them, such as `cascade keys list`.
        as_json: whether a machine reads what is said.
    """

    arguments: tuple[str, ...] = ()
    command: str = "cascade"
    as_json: bool = False

    @property
    def name(self) -> str:
        """The first word of the command; empty where there was none."""
        return self.command.removeprefix("cascade").strip().partition(" ")[0]

    def again(self, wrong: str = "", right: str = "", more: str = "") -> str | None:
        """The same once more, with another argument; None where it should not be repeated."""
        if wrong and wrong not in self.arguments:
            return None
        given = [right if argument == wrong else argument for argument in self.arguments]
        line = f"cascade {shlex.join(given)}{more}"
        # Nobody copies a page, and no key belongs on a screen.
        short = len(line) <= LONGEST and "\n" not in line
        return line if short and mask_keys(line) == line else None


TYPED: ContextVar[Typed] = ContextVar("typed", default=Typed())  # noqa: B039 - it is frozen
"""What was typed in this process."""


def next_command(message: str, typed: Typed, of_model: str | None = None) -> str | None:
    """What to type now.

    Args:
        message: the error's.
        typed: the command that failed.
        of_model: the model that failed.

    Returns:
        A command, or None where what was interrupted is not worth repeating.
    """
    if message.startswith("interrupted") and typed.command not in _GOES_ON:
        return None
    for rule in _RULES:
        found = rule(message, typed)
        if found is not None:
            return found
    if of_model is not None:
        return f"cascade doctor --model {shlex.quote(of_model)}"
    return f"{typed.command} --help"


_GOES_ON = ("cascade batch", "cascade calibrate")
"""Commands that go on where they were interrupted."""


def _said(message: str, typed: Typed) -> str | None:
    """A command that the message names."""
    del typed
    found = _QUOTED.findall(message) or _PIP.findall(message)
    return found[-1].rstrip(".") if found else None


def _key(message: str, typed: Typed) -> str | None:
    del typed
    found = _KEY.search(message)
    return None if found is None else f"export {found[1] or found[2]}=…"


def _meant(message: str, typed: Typed) -> str | None:
    """The same with the word that was meant."""
    option = _OPTION.search(message)
    if option is not None:
        return typed.again(option["wrong"], option["right"])
    found = _MEANT.search(message) if "id you mean" in message else None
    if found is None:
        return None
    for wrong in (*re.findall(r"'([^']+)'", message), *re.findall(r"(\S+): ", message)):
        line = None if wrong == found["right"] else typed.again(wrong, found["right"])
        if line is not None:
            return line
    return None


def _missing_file(message: str, typed: Typed) -> str | None:
    """The same with a file that is there, or what makes such a file, or a look around."""
    found = _NO_FILE.search(message)
    if found is None:
        return None
    path = Path(found["file"] or found["there"])
    try:
        folder = path.parent if path.parent.is_dir() else Path()
        there = [file.stem for file in folder.iterdir() if file.suffix == path.suffix]
    except OSError:  # a folder that may not be read, a name that is too long
        return None
    for close in get_close_matches(path.stem, there, n=1, cutoff=CLOSE):
        for argument in typed.arguments:
            if argument.endswith(str(path)):
                name = argument.removesuffix(path.name)
                return typed.again(argument, f"{name}{close}{path.suffix}")
    if typed.name in RUNS_A_SERVICE and (found["there"] or path.suffix in (".yaml", ".yml")):
        return MAKES_A_CONFIGURATION
    if found["there"]:
        return MAKES_A_LEDGER
    return f"ls {shlex.quote(str(folder))}" if str(folder) != "." else "ls"


def _address(message: str, typed: Typed) -> str | None:
    """A file was named where its address is wanted."""
    found = re.search(r"'([^']+)' is no address of a ledger", message)
    return None if found is None else typed.again(found[1], f"sqlite:///{found[1]}")


def _configuration(message: str, typed: Typed) -> str | None:
    """A configuration is read again, once it is mended."""
    found = _LINE_OF.search(message)
    if found is None or typed.name not in (*RUNS_A_SERVICE, "batch"):
        return None
    return f"cascade serve {shlex.quote(found['file'])} --check"


def _taken(message: str, typed: Typed) -> str | None:
    """Another port."""
    if not message.endswith("Address already in use."):
        return None
    given = typed.arguments
    if "--port" in given[:-1]:
        return typed.again(given[given.index("--port") + 1], "0")
    return typed.again(more=" --port 0")


def _again(message: str, typed: Typed) -> str | None:
    return typed.again() if _AGAIN.search(message) else None


_RULES: tuple[Callable[[str, Typed], str | None], ...] = (
    _configuration,
    _meant,
    _said,
    _key,
    _missing_file,
    _address,
    _taken,
    _again,
)
"""The first that knows something says it."""

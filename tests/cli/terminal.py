"""The command `cascade` as a person types it, on a terminal."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from cascade.cli import main
from tests.acceptance.commands import Done
from tests.acceptance.upstream import Answer, Seen


class Screen(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


class Keyboard(io.TextIOWrapper):
    """What is typed at a terminal."""

    def isatty(self) -> bool:
        return True


def cascade(*arguments: object, types: str = "", code: int = 0) -> Done:
    """Run a command at a terminal, where a person types an answer to what it asks."""
    out, err, ended = Screen(), Screen(), 0
    with (
        mock.patch.object(sys, "argv", ["cascade", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", Keyboard(io.BytesIO(types.encode()))),
        mock.patch.dict("os.environ", {"COLUMNS": "200", "TERM": "dumb"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leaving:
            ended = int(leaving.code or 0)
    done = Done(out.getvalue(), err.getvalue(), ended)
    assert ended == code, f"{ended}: {done.out[-2000:]}{done.err[-2000:]}"
    return done


def ctrl_c(seen: Seen) -> Answer:
    """A model in the middle of whose answer a person types Ctrl-C."""
    del seen
    os.kill(os.getpid(), signal.SIGINT)
    return Answer("too late", delay_s=30)

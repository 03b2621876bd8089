"""The command `cascade` as a person types it, on a terminal."""

import os
import signal
from functools import partial

from tests.acceptance import commands
from tests.acceptance.upstream import Answer, Seen

cascade = partial(commands.cascade, tty=True, TERM="dumb")


def ctrl_c(seen: Seen) -> Answer:
    """A model in the middle of whose answer a person types Ctrl-C."""
    del seen
    os.kill(os.getpid(), signal.SIGINT)
    return Answer("too late", delay_s=30)

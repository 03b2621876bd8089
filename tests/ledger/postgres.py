"""A real PostgreSQL server of the tests' own: a free port, a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SETTINGS = "-c fsync=on -c max_connections=40 -c shared_buffers=32MB"


class NoPostgresError(Exception):
    """PostgreSQL cannot be had here; the message says why."""


def _programs() -> Path:
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    raise NoPostgresError("no PostgreSQL server here: apt install postgresql")


@dataclass(frozen=True)
class Server:
    """One that runs, and that a test may stop, start and hold still."""

    programs: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://cascade@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        self._run("initdb", "--auth=trust", "--username=cascade", "--encoding=UTF8", "--no-sync")

    def start(self) -> None:
        settings = f"{SETTINGS} -p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", settings, "start")

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all connections; `immediate` is a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    @contextmanager
    def held(self) -> Iterator[None]:
        """It stands still meanwhile: its connections stay open, and nothing is answered."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = [first, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(
            command,
            user=user,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            raise NoPostgresError(f"{program} failed: {done.stdout}{done.stderr}")


@contextmanager
def running() -> Iterator[Server]:
    """Start one, with a folder of its own."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="cascade-postgres-"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(programs, folder, listener.getsockname()[1])
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        server.make()
        server.start()
        try:
            yield server
        finally:
            with suppress(NoPostgresError):
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

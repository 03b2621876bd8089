"""A real PostgreSQL server of the tests' own: a free port, a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.debian import found_or_installed

SETTINGS = "-c fsync=on -c max_connections=40 -c shared_buffers=32MB"


class NoPostgresError(Exception):
    """PostgreSQL cannot be had here; the message says why."""


def binaries() -> Path:
    """The folder of the server's programs; it is installed where this is CI and we may."""
    found, why = found_or_installed(_find, "postgresql", timeout=300)
    if found is None:
        raise NoPostgresError(f"no PostgreSQL server here: apt install postgresql{why}")
    return found


def _find() -> Path | None:
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """Start one; gives its address, `postgresql://…/postgres`."""
    programs = binaries()
    folder = Path(tempfile.mkdtemp(prefix="cascade-postgres-"))
    # The server refuses to run as root.
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", _free_port()

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(data), *arguments]
        done = subprocess.run(
            command, user=user, cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise NoPostgresError(f"{program} failed: {done.stdout}{done.stderr}")

    try:
        run("initdb", "--auth=trust", "--username=cascade", "--encoding=UTF8", "--no-sync")
        settings = f"{SETTINGS} -p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield f"postgresql://cascade@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

"""A PostgreSQL server of the tests' own: a free port, a temporary folder, gone afterwards."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server; gives its address. The test is skipped where none is installed."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    programs = next((each for each in folders if (each / "initdb").exists()), None)
    if programs is None:
        pytest.skip("no PostgreSQL server here")
    with tempfile.TemporaryDirectory(prefix="acceptance-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # The server refuses to run as root.
        user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "-D", str(folder / "data"), *arguments]
            # Not captured: the server would keep the pipe open.
            with (folder / f"{program}.log").open("wb") as log:
                subprocess.run(command, user=user, cwd=folder, stdout=log, stderr=log, check=True)

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        run("initdb", "--auth=trust", "--username=cascade", "--encoding=UTF8", "--no-sync")
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=60"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield f"postgresql://cascade@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def new_database(server: str, name: str) -> str:
    """The address of an empty database on a server."""

    async def create() -> None:
        connection = await asyncpg.connect(server)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return server.removesuffix("postgres") + name

"""Clients that others wrote, in environments of their own, as processes before a gateway.

All environments are made at once when the first of them is asked for: each waits for a registry.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from environments import FOLDER, NoEnvironmentError, done, made, python_with

from tests.servers import replies
from tests.servers.fake import Received
from tests.service.talking import Talk, talking

SCRIPTS = Path(__file__).parent / "clients"

NODE_PACKAGES = ("openai@7.57.0", "zod@4.6.7", "ollama@0.6.4")
PYTHON_PACKAGES = ("langchain-openai==1.7.4", "openai-agents==0.24.0")
SCHEMATHESIS = ("schemathesis==4.32.5",)

LONGEST_S = 120
"""Of a client's script; it takes a few seconds."""


def node_with(*packages: str) -> Path:
    """A folder with `node_modules` of these packages, made if it is not there and this is CI.

    Raises:
        NoEnvironmentError: it is not there and must not or cannot be made, or there is no Node.
    """
    wanted = " ".join(packages)
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NoEnvironmentError("no node and npm here")
    folder = FOLDER / "-".join(["node", *(package.replace("@", "-") for package in packages)])
    ready = folder / "ready"
    if ready.exists():
        return folder
    if "CI" not in os.environ:
        raise NoEnvironmentError(f"no node_modules with {wanted} here; CI=true makes them")
    made(folder, lambda: _make(folder, packages))
    return folder


def _make(folder: Path, packages: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quiet = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
    # A registry that does not answer is told soon.
    patience = ("--fetch-retries=1", "--fetch-timeout=20000")
    command = ["npm", "install", *quiet, *patience, "--prefix", str(folder), *packages]
    done(command, f"no node_modules with {' '.join(packages)}", timeout=100)


@cache
def _all() -> Mapping[tuple[str, ...], Future[Path]]:
    with ThreadPoolExecutor() as pool:
        pythons = (PYTHON_PACKAGES, SCHEMATHESIS)
        python = {names: pool.submit(python_with, *names) for names in pythons}
        return {NODE_PACKAGES: pool.submit(node_with, *NODE_PACKAGES), **python}


def environment(packages: tuple[str, ...]) -> Path:
    """The Python, or the folder with `node_modules`, that has one of the sets above.

    Raises:
        NoEnvironmentError: it cannot be had here.
    """
    return _all()[packages].result()


@dataclass
class Heard:
    """What a client's script has printed, by the names of its parts, and what reached the
    upstream.
    """

    told: dict[str, Any]
    received: list[Received]


def asked_for(content: str, received: list[Received]) -> list[Received]:
    """The requests to the upstream whose last message is this."""
    return [one for one in received if one.body["messages"][-1]["content"] == content]


@asynccontextmanager
async def gateway_for_clients(folder: Path) -> AsyncGenerator[tuple[Talk, dict[str, str]]]:
    """A gateway with keys, and what its clients are told of it. Its upstream obeys a few words:
    `hang plain`, `hang stream`, `too many`, `fail`.
    """
    async with talking(folder, auth=True) as talk:
        obliging: Any = talk.upstream
        usual: Callable[[Mapping[str, Any]], replies.Reply] = obliging.oblige
        obliging.oblige = lambda body: scripted(body) or usual(body)
        told = {
            "BASE_URL": f"{talk.gateway.server.address}/v1",
            "MODEL": "support",
            "GOOD_KEY": await talk.gateway.key("good"),
            "SLOW_KEY": await talk.gateway.key("slow", per_minute=1),
        }
        yield talk, told


def scripted(body: Mapping[str, Any]) -> replies.Reply | None:
    """What the upstream answers to some words; None for all others."""
    match body["messages"][-1]["content"]:
        case "hang plain":
            return replies.HANG
        case "hang stream" if body["model"] == "small":
            return replies.openai_reply("Hm", logprobs=[{"token": "Hm", "logprob": -3.0}])
        case "hang stream":
            return replies.sse([replies.openai_delta(content="Well")], done=False, ending="hang")
        case "too many":  # longer than a run waits for
            return replies.error(429, "slow down", headers={"Retry-After": "600"})
        case "fail":  # a refusal that nobody repeats
            return replies.error(401, "the gateway's own key is wrong")
    return None


async def run_client(
    command: list[str | Path],
    folder: Path,
    told: Mapping[str, str],
    reply: Callable[[Any], Awaitable[None]] | None = None,
) -> dict[str, Any]:
    """Run a script to its end; each line that it prints is a part of it with a name.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        told: its environment, beside this process's own.
        reply: is awaited when it says `abort_me`; then it is told to go on.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **told},
        stdin=pipe,
        stdout=pipe,
        stderr=(folder / "stderr").open("wb"),
        limit=2**20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(LONGEST_S):
            async for line in process.stdout:
                part = json.loads(line)
                if part["name"] == "abort_me":
                    assert reply is not None
                    await reply(part["told"])
                    process.stdin.write(b"\n")
                else:
                    found[part["name"]] = part["told"]
            ended = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert ended == 0, (folder / "stderr").read_text()
    return found


async def run_node(
    script: str,
    modules: Path,
    folder: Path,
    told: Mapping[str, str],
    reply: Callable[[Any], Awaitable[None]] | None = None,
) -> dict[str, Any]:
    """Run one of the scripts in `clients` with Node, in a folder that has its modules."""
    shutil.copy(SCRIPTS / script, folder)
    (folder / "node_modules").symlink_to(modules / "node_modules")
    return await run_client(["node", script], folder, told, reply)

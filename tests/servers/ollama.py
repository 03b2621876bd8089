"""The official Ollama server, with a model made of the embedded weights.

The binary is looked for at CASCADE_OLLAMA, then where `make ollama` puts it, then on PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.servers.fake import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "smollm2-test"
MISSING = "no Ollama server: set CASCADE_OLLAMA to its binary, run `make ollama`, or put it on PATH"


def find_ollama() -> Path | None:
    """The binary of the Ollama server, if there is one on this machine."""
    places = [
        os.environ.get("CASCADE_OLLAMA"),
        REPOSITORY / ".tools" / "ollama" / "ollama",
        shutil.which("ollama"),
    ]
    return next((Path(p) for p in places if p and Path(p).is_file()), None)


@contextmanager
def running_ollama(binary: Path, weights: Path, home: Path) -> Iterator[str]:
    """Run a server of its own, with `MODEL` in it; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "HOME": str(home),
        "OLLAMA_HOST": address,
        "OLLAMA_MODELS": str(home / "models"),
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_CONTEXT_LENGTH": "1024",
    }
    with (home / "ollama.log").open("wb") as log:
        server = subprocess.Popen(
            [binary, "serve"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_it_answers(f"http://{address}", server)
            modelfile = home / "Modelfile"
            modelfile.write_text(f"FROM {weights}\nPARAMETER num_thread 1\n", encoding="utf-8")
            command = [binary, "create", MODEL, "-f", modelfile]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
            yield f"http://{address}"
        finally:
            server.terminate()  # and with it what it has started
            server.wait(300)


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while server.poll() is None and time.monotonic() < until:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/version", timeout=5).is_success:
                return
        time.sleep(0.1)
    raise RuntimeError(f"ollama serve does not answer; it ended with {server.poll()}")

"""The official Ollama server, with a model made of the embedded weights.

The binary is looked for at CASCADE_OLLAMA, then where `make ollama` puts it, then on PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    address = f"127.0.0.1:{_free_port()}"
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
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"ollama serve ended with {server.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/api/version", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("ollama serve does not answer after 30 s")

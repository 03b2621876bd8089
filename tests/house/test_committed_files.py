"""What is committed is the project's own: no machine, no registry, no secret, no weights."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import floors

# In pieces, so that this file does not itself hold what it forbids.
NAMES = "pypi org,pythonhosted org,npmjs org,npmjs com,proxy.golang org,sum.golang org,crates io"
HOSTS = [name.replace(" ", ".") for name in f"{NAMES},deb.debian org,maven org".split(",")]
FORBIDDEN = {
    "the host of a package registry": re.compile("|".join(map(re.escape, HOSTS))),
    "an absolute path of a machine": re.compile(
        r"(?<![\w.~$}])/(?:root|home|Users|work|opt|mnt)/(?!acme)[\w.]{2,}"
    ),
    "a secret": re.compile(
        r"\bsk-(?!abcdefghij)(?:proj-|ant-)?[A-Za-z0-9_-]{24,}|\bhf_[A-Za-z0-9]{24,}|\bAKIA[A-Z0-9]{16}"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    ),
}
LARGEST = 2_000_000
"""Bytes: more would be weights or a data set."""


def committed() -> list[Path]:
    if shutil.which("git") is None or not (floors.ROOT / ".git").exists():
        pytest.skip("not a git clone: nothing says which files are committed")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=floors.ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    paths = [floors.ROOT / name for name in listed if name]
    outside = [str(path) for path in paths if path.is_symlink() and path.readlink().is_absolute()]
    assert not outside, "links to a place of one machine"
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_file_holds(what: str) -> None:
    wrong = []
    for path in committed():
        text = path.read_text(encoding="utf-8", errors="replace")
        for match in FORBIDDEN[what].finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            wrong.append(f"{path.relative_to(floors.ROOT)}:{line}: {match.group()}")
    assert not wrong, f"{what}:\n" + "\n".join(wrong)


def test_no_committed_file_is_weights_or_a_lock() -> None:
    kinds = {".gguf", ".safetensors", ".bin", ".pt", ".onnx", ".lock"}
    for path in committed():
        assert path.stat().st_size <= LARGEST, path
        assert path.suffix not in kinds, path


EXAMPLES = {
    "the host of a package registry": "https://" + HOSTS[0] + "/simple",
    "an absolute path of a machine": "open('/" + "home/ada/model.gguf')",
    "a secret": "key = 'sk-" + "a" * 30 + "'",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_forbidden_is_found(what: str) -> None:
    assert FORBIDDEN[what].search(EXAMPLES[what])

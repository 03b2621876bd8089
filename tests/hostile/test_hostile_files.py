"""Files that somebody else may have made: none runs code or fills the memory, all say why not."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import floors
from cascade.confidence.calibration import Calibration
from cascade.confidence.sound import LARGEST, unsound_number
from cascade.errors import ConfigurationError
from cascade.ledger.store import open_store
from cascade.models import gguf
from cascade.models.llamacpp import find_weights
from cascade.service.page.files import names
from tests.service.calibrated import write

# Nothing that reads a file can run what is in it ------------------------------------------------

RUNS_CODE = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle",
    "torch", "zipfile", "tarfile", "shutil.unpack_archive", "imp", "runpy", "code", "codeop",
}  # fmt: skip
"""Modules whose loading runs code or unpacks archives."""

CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
UNSAFE = {
    ("yaml", "load"), ("yaml", "load_all"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
    ("np", "load"), ("numpy", "load"), ("os", "system"), ("os", "popen"),
    ("asyncio", "create_subprocess_shell"), ("subprocess", "getoutput"), ("builtins", "eval"),
}  # fmt: skip

ALLOWED = {
    # Rows on their way to the replicas of a job: messages of LangChain and values of Parquet are no
    # JSON, and Ray runs what its own processes send in any case. Answers come back as JSON.
    ("cascade/jobs/ray_crew.py", "pickle"),
    ("cascade/jobs/ray_replica.py", "pickle"),
    ("cascade/evaluation/scorers/code.py", "compile"),
    ("cascade/evaluation/scorers/code.py", "exec"),
}
"""The scorer of code runs code by its purpose, in a process of its own: docs/evaluation.md."""


def sources() -> list[Path]:
    folders = [floors.ROOT / name for name in ("cascade", "agents")]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def found_in(tree: ast.AST) -> set[str]:
    """What a module does that could run code from a file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.partition(".")[0] in RUNS_CODE}
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in RUNS_CODE
        ):
            found.add(node.module or "")
        elif isinstance(node, ast.Call):
            found |= _called(node)
    return found


def _called(node: ast.Call) -> set[str]:
    function, found = node.func, set()
    if isinstance(function, ast.Name) and function.id in CALLS:
        found.add(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        named = (function.value.id, function.attr)
        found |= {".".join(named)} if named in UNSAFE else set()
    for keyword in node.keywords:
        is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if keyword.arg in ("allow_pickle", "shell") and is_true:
            found.add(f"{keyword.arg}=True")
    return found


def test_no_module_reads_files_in_a_way_that_can_run_code() -> None:
    wrong = {}
    for path in sources():
        name = str(path.relative_to(floors.ROOT))
        found = found_in(ast.parse(path.read_text(encoding="utf-8")))
        if left := {word for word in found if (name, word) not in ALLOWED}:
            wrong[name] = left
    assert not wrong


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "import torch.nn", "eval('1')", "exec(text)",
     "yaml.load(file)", "np.load(path)", "load(path, allow_pickle=True)", "run(x, shell=True)",
     "import zipfile", "__import__(name)", "os.system('x')"],
)  # fmt: skip
def test_what_could_run_code_is_found(code: str) -> None:
    assert found_in(ast.parse(code))


def test_what_only_looks_like_it_is_not() -> None:
    assert not found_in(ast.parse("model.eval()\nyaml.safe_load(x)\nre.compile('a')\nstore.load()"))


# Calibrations -------------------------------------------------------------------------------------


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("protocol", [0, 5])
def test_a_pickle_in_the_place_of_a_calibration_runs_nothing(tmp_path: Path, protocol: int) -> None:
    mark, path = tmp_path / "ran", tmp_path / "calibration.json"
    path.write_bytes(pickle.dumps(Payload(mark), protocol=protocol))
    with pytest.raises(ConfigurationError, match="is no calibration"):
        Calibration.load(path)
    assert not mark.exists()


def told(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def document(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "sound.json"
    write(path, 0.5)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


LOGISTIC = {"kind": "logistic", "columns": [0], "mean": [0.0], "scale": [1.0], "weights": [1.0],
            "intercept": 0.0}  # fmt: skip
LINEAR = {"weights": [1.0], "intercept": 0.0, "logistic": True}
TREES = {"baseline": 0.0, "feature": [[0, 0, 0]], "threshold": [[0.5, 0.0, 0.0]],
         "left": [[1, 1, 2]], "right": [[2, 1, 2]], "missing_left": [[True, True, True]],
         "value": [[0.0, 0.1, 0.2]], "depth": 1}  # fmt: skip
GAIN = {"mean": [0.0], "scale": [1.0], "small": LINEAR, "large": LINEAR, "direct": LINEAR,
        "trees": TREES, "n": 10}  # fmt: skip

Change = Callable[[dict[str, Any]], None]


def calibrator(**changes: Any) -> Change:
    return lambda doc: doc["stages"][0].update(calibrator={**LOGISTIC, **changes})


def stage(**changes: Any) -> Change:
    return lambda doc: doc["stages"][0].update(changes)


def gain(**changes: Any) -> Change:
    return lambda doc: doc.update(gain={**GAIN, **changes})


def trees(**changes: Any) -> Change:
    return gain(trees={**TREES, **changes})


CERTIFICATE = {"threshold": 0.5, "max_harm": 0.1, "delta": 0.05, "n": 10, "errors": 1,
               "coverage": 0.5, "bound": 0.09}  # fmt: skip

BROKEN: dict[str, tuple[Change, str]] = {
    "a base rate that is none": (stage(calibrator={"kind": "constant", "value": 7.0}), "value"),
    "a column that is not there": (calibrator(columns=[99]), "columns: there are 1"),
    "a column before the first": (calibrator(columns=[-1]), "columns: there are 1"),
    "weights of another length": (calibrator(weights=[1.0, 2.0]), "different lengths"),
    "a scale of zero": (calibrator(scale=[0.0]), "scale: not above 0"),
    "a temperature of no column": (
        stage(calibrator={"kind": "temperature", "column": 5, "slope": 1.0, "shift": 0.0}),
        "there is none of number 5",
    ),
    "knots that fall": (
        stage(
            calibrator={
                "kind": "isotonic",
                "inner": LOGISTIC,
                "knots": [1.0, 0.0],
                "values": [0.1, 0.2],
            }
        ),
        "no curve",
    ),
    "an inner column that is not there": (
        stage(
            calibrator={
                "kind": "beta",
                "inner": {**LOGISTIC, "columns": [3]},
                "a": 1.0,
                "b": 1.0,
                "c": 0.0,
            }
        ),
        "columns: there are 1",
    ),
    "a band without scores": (stage(band={"scores": [], "low": [], "high": []}), "band"),
    "an outlook beyond one": (stage(outlook=[[0.1, 1.5]]), "outlook"),
    "an outlook out of order": (stage(outlook=[[0.9, 0.5], [0.1, 0.5]]), "not sorted"),
    "confidences beyond one": (lambda doc: doc.update(confidences=[2.0]), "confidences"),
    "a large model beyond right": (lambda doc: doc.update(p_large=1.5), "p_large"),
    "a certificate of more errors than drafts": (
        lambda doc: doc.update(certificates=[{**CERTIFICATE, "errors": 11}]),
        "certificates.0",
    ),
    "a gain of another width": (gain(mean=[0.0, 1.0]), "different lengths"),
    "a gain's scale of zero": (gain(scale=[0.0]), "scale"),
    "a tree without end": (trees(depth=10**9), "depth 1000000000"),
    "a branch out of its tree": (trees(left=[[7, 1, 2]]), "out of its tree"),
    "a tree of another column": (trees(feature=[[4, 0, 0]]), "there are 1 columns"),
    "a tree with half a table": (trees(value=[[0.0]]), "different lengths"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_calibration_that_cannot_be_computed_with_is_refused(tmp_path: Path, what: str) -> None:
    change, words = BROKEN[what]
    doc, path = document(tmp_path), tmp_path / "c.json"
    change(doc)
    path.write_text(json.dumps(doc), encoding="utf-8")
    assert words in told(path)


def test_calibrations_of_all_kinds_are_sound(tmp_path: Path) -> None:
    kinds = [
        LOGISTIC,
        {"kind": "isotonic", "inner": LOGISTIC, "knots": [0.0, 1.0], "values": [0.1, 0.9]},
        {"kind": "temperature", "column": 0, "slope": 1.0, "shift": 0.0},
    ]
    for kind in kinds:
        doc, path = document(tmp_path), tmp_path / "c.json"
        doc["stages"][0] |= {"calibrator": kind, "outlook": [[0.1, 0.5], [0.9, 1.0]]}
        doc |= {"gain": GAIN, "certificates": [CERTIFICATE], "p_large": 1.0}
        path.write_text(json.dumps(doc), encoding="utf-8")
        assert Calibration.load(path).stages


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
def test_a_weight_that_is_no_number_is_refused(tmp_path: Path, number: str) -> None:
    doc, path = document(tmp_path), tmp_path / "c.json"
    doc["stages"][0]["calibrator"] = {**LOGISTIC, "weights": ["HERE"]}
    path.write_text(json.dumps(doc).replace('"HERE"', number), encoding="utf-8")
    assert "no number" in told(path) or "finite" in told(path)
    assert unsound_number(f"[{number}]") is not None
    assert unsound_number('["NaN", 1e30, null]') is None


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "[" * 100_000, '{"format": 2}', "\x00" * 100, "9" * 10_000,
     '{"__class__": "os.system", "py/object": "os.system"}'],
)  # fmt: skip
def test_what_is_no_calibration_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    assert "is no calibration of this version" in told(path)


def test_of_a_file_without_end_so_much_is_read_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with path.open("wb") as file:  # takes no place on the disk
        file.write(b'{"format": 1, "labels": "')
        file.truncate(100 * LARGEST)
    assert "is no calibration" in told(path)


def test_a_folder_a_missing_file_and_a_link_to_nowhere_are_told(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "nowhere.json")
    for path in (tmp_path, tmp_path / "missing.json", link):
        assert "cannot be read" in told(path)


# Weights ------------------------------------------------------------------------------------------


def weights(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


def string(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
MALFORMED = {
    "nothing": b"",
    "half a head": b"GGUF\x03",
    "keys without end": b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1),
    "a name of 2^64 bytes": HEAD + string(b"", 2**64 - 1),
    "a name of 17 MB": HEAD + string(b"a", 17 * 2**20),
    "a kind that there is not": HEAD + string(b"a") + struct.pack("<I", 99),
    "a text that is none": HEAD + string(b"a") + struct.pack("<I", 8) + string(b"\xff\xfe"),
    "a list of 2^64 texts": HEAD + string(b"a") + struct.pack("<IIQ", 9, 8, 2**64 - 1),
    "a list of 2^64 numbers": HEAD + string(b"a") + struct.pack("<IIQ", 9, 10, 2**64 - 1),
    "a list of an unknown kind": HEAD + string(b"a") + struct.pack("<IIQ", 9, 77, 5),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_weights_with_a_broken_head_are_told(tmp_path: Path, what: str) -> None:
    path = weights(tmp_path, MALFORMED[what])
    with pytest.raises(ConfigurationError, match=r"is not a GGUF file|cannot be read"):
        gguf.read_metadata(path)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x80\x05\x95", b"FUGG", b"ggml", b"#!/b"])
def test_another_kind_of_file_is_no_weights(tmp_path: Path, magic: bytes) -> None:
    path = weights(tmp_path, magic + b"\x00" * 100)
    with pytest.raises(ConfigurationError, match="is not a GGUF file"):
        gguf.read_metadata(path)


def test_weights_are_a_file_and_nothing_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")  # reading it would wait for ever
    (tmp_path / "link.gguf").symlink_to(tmp_path / "nowhere.gguf")
    for name in ("pipe.gguf", "link.gguf", "../nowhere.gguf", "\x00.gguf"):
        with pytest.raises((ConfigurationError, Exception), match=r"no file|null byte|directory"):
            find_weights(str(tmp_path / name))


# Names that are paths -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../page.html", "..%2f..%2fkeys.py", "/etc/passwd", "page.html"])
def test_the_page_serves_its_own_files_alone(name: str) -> None:
    assert name not in names()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\x00b"])
async def test_a_name_of_a_ledger_writes_no_file(tmp_path: Path, name: str) -> None:
    from cascade.state import LedgerEntry  # noqa: PLC0415

    path = tmp_path / "inside" / "entries.jsonl"
    path.parent.mkdir()
    entry = LedgerEntry(
        run_id=name, node=name, tier=name, model=name, note=name, latency_ms=1.0, basis="unknown",
        cost_basis="unknown",
    )  # fmt: skip
    async with open_store("memory://", tags={name: name}) as store:
        store.append([entry])
        await store.flush()
        await store.export(path)
    assert files_in(tmp_path) == ["entries.jsonl", "inside"]


@pytest.mark.parametrize("ending", [".pkl", ".npz", ".zip", ""])
async def test_entries_are_written_in_formats_that_run_nothing(tmp_path: Path, ending: str) -> None:
    async with open_store("memory://") as store:
        with pytest.raises(ConfigurationError, match="the ending names the format"):
            await store.export(tmp_path / f"entries{ending}")

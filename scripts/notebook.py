"""Runs the notebooks of examples/ in a kernel of their own and keeps what they show.

python scripts/notebook.py            runs them and writes their outputs
python scripts/notebook.py --check    writes nothing, and fails where they show something else
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import floors

FOLDER = floors.ROOT / "examples"
LONGEST_CELL_S = 300
_FIGURES = re.compile(r"-?\d[\d.,]*")


def notebooks() -> list[Path]:
    """All of them."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path) -> Any:
    """The notebook with the outputs that it gives now, in a folder with its data and nothing else.

    Raises:
        CellExecutionError: a cell failed.
    """
    import nbformat  # noqa: PLC0415 - no other script needs Jupyter
    from jupyter_client.manager import AsyncKernelManager  # noqa: PLC0415
    from nbclient import NotebookClient  # noqa: PLC0415

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with TemporaryDirectory() as folder:
        for data in FOLDER.glob(f"{path.stem}_*"):
            shutil.copy(data, folder)
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(transport="ipc", ip=f"{folder}/.kernel"),  # sockets of files
            timeout=LONGEST_CELL_S,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    return notebook


def shown(notebook: Any) -> list[str]:
    """What each cell of a notebook prints, with the kinds of its other outputs."""
    return ["".join(map(_shown, cell.get("outputs", ()))) for cell in notebook.cells]


def _shown(output: Any) -> str:
    """What is printed comes in pieces, as the kernel has time for it."""
    return str(output["text"]) if "text" in output else ", ".join(sorted(output.get("data", ())))


def same(left: list[str], right: list[str]) -> bool:
    """Whether two runs show the same; figures may differ, as libraries round in their own way."""
    return [_FIGURES.sub("0", text) for text in left] == [_FIGURES.sub("0", t) for t in right]


def main() -> int:
    """Write, or with `--check` compare."""
    import nbformat  # noqa: PLC0415

    outdated = []
    for path in notebooks():
        now, before = executed(path), nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        if "--check" not in sys.argv:
            nbformat.write(now, path)  # type: ignore[no-untyped-call]
        elif not same(shown(now), shown(before)):
            outdated.append(path.name)
    print(", ".join(outdated) or "all notebooks show what they give")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())

"""What has to be known about a GGUF file before it is loaded.

llama.cpp answers every bad file with "Failed to init server"; reading the head of the file
tells what is wrong with it, and how long a context the model was trained on.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from cascade.errors import ConfigurationError

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_LONGEST_STRING = 1 << 24
# Lists within lists without end, and sizes that lead past the end of every file.
_BROKEN = (
    struct.error,
    KeyError,
    ValueError,
    MemoryError,
    OverflowError,
    RecursionError,
    OSError,
)

MetadataValue = str | int | float | bool


def context_length(path: Path) -> int | None:
    """The longest context that the model was trained on; None where the file does not say.

    Raises:
        ConfigurationError: the file is not a GGUF file, or a broken one.
    """
    metadata = read_metadata(path)
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return length if isinstance(length, int) else None


def chat_template(path: Path) -> str:
    """The templates that make a prompt of a conversation; empty where the file has none.

    Raises:
        ConfigurationError: the file is not a GGUF file, or a broken one.
    """
    metadata = read_metadata(path)
    return "\n".join(
        str(value) for key, value in metadata.items() if key.startswith("tokenizer.chat_template")
    )


def read_metadata(path: Path) -> dict[str, MetadataValue]:
    """The single values in the head of a GGUF file; lists (the vocabulary) are skipped.

    Raises:
        ConfigurationError: the file is not a GGUF file, or a broken one.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ConfigurationError(
                f"{path} is not a GGUF file. Give the path of a model in llama.cpp's format "
                "(*.gguf), or llamacpp:smollm2-135m for the embedded one."
            )
        try:
            _version, _tensors, n_keys = _unpack(file, "IQQ")
            return dict(_read_entries(file, n_keys))
        except _BROKEN as error:
            raise ConfigurationError(
                f"{path} begins like a GGUF file but cannot be read ({error}). "
                "It is probably cut off: download it again."
            ) from error


def _read_entries(file: BinaryIO, n_keys: int) -> list[tuple[str, MetadataValue]]:
    entries = []
    for _ in range(n_keys):
        key = _read_string(file)
        (kind,) = _unpack(file, "I")
        value = _read_value(file, kind)
        if value is not None:
            entries.append((key, value))
    return entries


def _read_value(file: BinaryIO, kind: int) -> MetadataValue | None:
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        _skip_array(file)
        return None
    (value,) = _unpack(file, _NUMBERS[kind])
    number: MetadataValue = value
    return number


def _skip_array(file: BinaryIO) -> None:
    kind, length = _unpack(file, "IQ")
    if kind == _STRING:
        for _ in range(length):
            (size,) = _unpack(file, "Q")
            file.seek(size, 1)
    elif kind == _ARRAY:
        for _ in range(length):
            _skip_array(file)
    else:
        file.seek(length * struct.calcsize(f"<{_NUMBERS[kind]}"), 1)


def _read_string(file: BinaryIO) -> str:
    (size,) = _unpack(file, "Q")
    if size > _LONGEST_STRING:
        raise OverflowError(f"a text of {size} bytes")
    return file.read(size).decode()


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    size = struct.calcsize(f"<{layout}")
    return struct.unpack(f"<{layout}", file.read(size))

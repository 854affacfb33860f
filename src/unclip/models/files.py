"""Files that are there whole or not at all: text, JSON and safetensors. Nothing pickled is read."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `ValueError` in one sentence if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write `path` under: it is there whole when the block ends, or not at all.

    Raises:
        ValueError: the disk is full, or the place cannot be written.
    """
    from safetensors import SafetensorError

    partial = path.with_name(f".{path.name}.partial")  # a killed process's is written over
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name without its bytes
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot write {path}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None
) -> None:
    """Write tensors, and `facts` into the header; the file is there whole or not at all."""
    from safetensors.torch import save_file

    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with whole(path) as partial:
        save_file(stored, partial, {"format": "pt", **(facts or {})})
        partial.chmod(0o644)  # the library makes files that nobody else can read


@contextmanager
def opened_safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file; `ValueError` if it is truncated or none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from None


def read_facts(file: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors."""
    with opened_safetensors(file) as opened:
        return dict(opened.metadata() or {})


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, memory-mapped; `ValueError` if it is truncated or no safetensors."""
    with opened_safetensors(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118

"""`unclip info`: what a model folder holds, or how an image was made."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from unclip.interfaces.options import parse


@dataclass(frozen=True)
class Info:
    """Describe a model folder, or say which command made an image."""

    path: tyro.conf.Positional[Path | None] = None
    """A model folder or a PNG image; the bundled model if left out."""


def run(arguments: Sequence[str]) -> int:
    options = parse(Info, "info", arguments)
    if options.path is not None and not options.path.exists():
        raise ValueError(f"there is no file or folder {options.path}")
    if options.path is not None and options.path.is_file():
        print(describe_image(options.path))
    else:
        print(describe_model(options.path))
    return 0


def describe_image(path: Path) -> str:
    """The notes in a PNG that `unclip generate` wrote, and the command that makes it again."""
    from unclip.pipeline.images import command_for, read_info

    notes = read_info(path)
    prompt = notes.get("prompt")
    rows = {
        "prompt": prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
        "seed": notes.get("seed"),
        "model": notes.get("model") or "bundled",
        "settings": json.dumps(notes.get("settings") or {}),
        "version": notes.get("version"),
    }
    return _table(rows) + "\n\n" + command_for(notes)


def describe_model(path: Path | None) -> str:
    """Components with their parameters and precisions, sizes, CLIP, and what is missing."""
    from unclip.models.folder import ModelFolder, bundled

    folder = ModelFolder(bundled("model") if path is None else path)
    index = folder.index()
    rows: dict[str, Any] = {"folder": folder.path, "class": index.get("_class_name")}
    for name, entry in index.items():
        if not name.startswith("_"):
            there = folder.has(name)
            rows[name] = f"{entry[1]}, {_weights(folder.path / name)}" if there else "absent"
    needed = ("prior", "text_proj", "decoder", "text_encoder", "tokenizer", "super_res_first")
    missing = [name for name in needed if not folder.has(name)]
    rows["complete"] = f"no: {', '.join(missing)} missing" if missing else "yes"
    for name, label in (("decoder", "base size"), ("super_res_first", "upsampled to")):
        if folder.has(name):
            rows[label] = f"{folder.config(name)['sample_size']} px"
    if folder.has("text_encoder"):
        rows["CLIP width"] = folder.config("text_encoder").get("projection_dim")
    card = folder.path / "README.md"
    rows["model card"] = card if card.is_file() else "none"
    return _table(rows)


def _weights(component: Path) -> str:
    """Parameters and precisions, from the headers of the weight files alone."""
    from safetensors import SafetensorError, safe_open

    from unclip.models.folder import weight_files

    if not any(component.glob("*.safetensors")):
        return "no weights"
    count, precisions = 0, set[str]()
    for file in weight_files(component):
        try:
            with safe_open(file, framework="pt") as tensors:
                pieces = [tensors.get_slice(key) for key in tensors.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}") from None
        count += sum(math.prod(piece.get_shape()) for piece in pieces)
        precisions |= {piece.get_dtype() for piece in pieces}
    return f"{count:,} parameters in {', '.join(sorted(precisions))}"


def _table(rows: dict[str, Any]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows.items())

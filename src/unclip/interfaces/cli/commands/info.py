"""`unclip info`: what a model folder holds, or how an image was made."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from unclip.checks import many, printable, shown
from unclip.files import read_bytes
from unclip.interfaces.cli.options import parse
from unclip.words import read_vocabulary

if TYPE_CHECKING:
    from unclip.storage.folder import ModelFolder


@dataclass(frozen=True)
class Info:
    """Describe a model folder, or say which command made an image."""

    path: tyro.conf.Positional[str | None] = None
    """Model folder, name of a model on the Hugging Face Hub that has been fetched (hf:owner/model),
    PNG image, or file of latents, embeddings or weights; the bundled model if left out."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip info` say, and give the exit code."""
    options = parse(Info, "info", arguments)
    from unclip.storage.hub import Access, absent, hub_name, is_bundled, resolve_model

    if options.path is None:
        print(describe_model(None))
        return 0
    if hub_name(options.path) or is_bundled(options.path):
        from unclip.pipeline.loading import CLASSES  # torch, which files of images do without

        print(describe_model(resolve_model(options.path, None, None, CLASSES, Access(fetch=False))))
        return 0
    path = Path(options.path)
    if not path.exists():
        raise ValueError(absent(path, "file or folder"))
    print(describe_file(path) if path.is_file() else describe_model(path))
    return 0


def describe_file(path: Path) -> str:
    """How an image was made, or what else a file is: latents, embeddings, weights."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _table(_of_tensors(path))
    if suffix == ".npy":
        return _table(_of_array(path))
    return describe_image(path)


def _of_array(path: Path) -> dict[str, Any]:
    """What a .npy file holds; nothing pickled is read."""
    import numpy as np

    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError, EOFError):
        raise ValueError(f"{path} is not a whole .npy file of numbers") from None
    return _embeddings(shape) if len(shape) == 2 else {"array": f"of the shape {shape}"}


def _embeddings(shape: Sequence[int]) -> dict[str, Any]:
    count, width = shape
    return {"embeddings": f"{count:,} of width {width}; unclip decode makes images of them"}


def _of_tensors(path: Path) -> dict[str, Any]:
    """What a safetensors file is, from its header alone."""
    from unclip.files import opened_safetensors

    with opened_safetensors(path) as opened:
        facts = dict(opened.metadata() or {})
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    if set(shapes) == {"z_i", "x_T"} and all(shapes.values()):
        of = f"of a model with the fingerprint {_brief(facts.get('model') or 'unknown')}"
        return {
            "latents": f"{many(shapes['z_i'][0], 'images')} of {shapes['x_T'][-1]} px, {of}",
            "found in": f"{_brief(facts.get('steps'))} steps of inversion",
            "for": "unclip vary, blend and edit",
        }
    if set(shapes) == {"embeddings"} and len(shapes["embeddings"]) == 2:
        return _embeddings(shapes["embeddings"]) | {"of": _brief(facts.get("names", ""))}
    numbers = sum(math.prod(shape) for shape in shapes.values())
    rows = {"weights": f"{many(len(shapes), 'tensors')}, {numbers:,} parameters"}
    if (path.parent.parent / "model_index.json").is_file():
        rows["component"] = f"{path.parent.name} of the model {path.parent.parent}"
        rows["more"] = f"unclip info {path.parent.parent}"
    return rows


def describe_image(path: Path) -> str:
    """The notes in a PNG that unclip wrote, and the command that makes it again."""
    from unclip.interfaces.cli.reproduction import command_for
    from unclip.outputs.images import read_info

    notes = read_info(path)
    prompt = notes.get("prompt")
    words = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    rows = {
        **({} if prompt is None else {"prompt": words}),
        "seed": notes.get("seed"),
        "model": notes.get("model") or "bundled",
        "settings": json.dumps(notes.get("settings") or {}),
        **({"machine": notes["machine"]} if "machine" in notes else {}),
        "version": notes.get("version"),
    }
    if "of" in notes:  # see evaluation/generated.py
        rows = {"made of": f"the image {notes['of']}", **rows}
        return _table(rows) + "\n\nNo command makes it again from these notes alone."
    return _table(rows) + "\n\n" + command_for(notes)


def describe_model(path: Path | None) -> str:
    """Components with their parameters and precisions, sizes, CLIP, and what is missing."""
    from unclip.data.held_out import noted_in
    from unclip.pipeline.loading import NEEDED, TEXT_TO_IMAGE, UPSAMPLING, needed_components
    from unclip.storage.folder import ModelFolder, bundled, check_links

    folder = ModelFolder(bundled("model") if path is None else path)
    index = folder.index()
    kind = index.get("_class_name")
    rows: dict[str, Any] = {"folder": folder.path, "class": _brief(kind)}
    for name, entry in index.items():
        if isinstance(entry, list) and not name.startswith("_"):
            there = folder.has(name)
            weights = _weights(folder.component(name)) if there else ""
            rows[name] = f"{_brief(entry[1])}, {weights}" if there else "absent"
    if kind is None or (isinstance(kind, str) and kind in NEEDED):
        needed = (*needed_components(folder, kind or TEXT_TO_IMAGE), *UPSAMPLING)
        missing = [name for name in needed if not folder.has(name)]
        rows["complete"] = f"no: {', '.join(missing)} missing" if missing else "yes"
    else:
        rows["complete"] = f"unclip opens {' and '.join(NEEDED)} only"
    for name, label in (
        ("decoder", "base size"),
        ("super_res_first", "upsampled to"),
        ("super_res_1024", "and to"),
    ):
        if folder.has(name):
            rows[label] = f"{_brief(folder.config(name).get('sample_size'))} px"
    if folder.has("text_encoder"):
        text = folder.config("text_encoder")
        rows["CLIP width"] = _brief(text.get("projection_dim"))
        rows["caption tokens"] = _brief(text.get("max_position_embeddings"))
    if folder.has("tokenizer"):
        rows["knows"] = read_vocabulary(folder.component("tokenizer")) or "not said"
    held_out = noted_in(folder)
    if held_out:
        rows["held out"] = "; ".join(
            f"{100 * fraction:g} % of the images, by {', '.join(of)}"
            for fraction, of in (
                (fraction, [stage for stage, one in held_out.items() if one == fraction])
                for fraction in sorted({*held_out.values()}, reverse=True)
            )
        )
    rows |= _sampling(folder, index)
    card = folder.path / "README.md"
    check_links(folder.path, card)
    rows["licence"] = _licence(card) if card.is_file() else "not said"
    rows["model card"] = card if card.is_file() else "none"
    return _table(rows)


def _sampling(folder: "ModelFolder", index: dict[str, Any]) -> dict[str, str]:
    """How each stage is sampled by default, in words, and what of it was chosen by measuring."""
    from unclip.pipeline.settings import model_says, published
    from unclip.stages.catalogue import priors
    from unclip.stages.suiting import DEFAULTS, TUNED

    try:
        says = published() | model_says(index.get(DEFAULTS, {}), DEFAULTS)
    except ValueError as error:
        return {"sampling": str(error)}
    kinds = [kind for kind, one in priors().items() if folder.has(next(iter(one.COMPONENTS)))]
    rows = {f"sampling, {kind} prior": _prior_words(kind, kinds, says, index) for kind in kinds}
    stages = {"decoder": "decoder", "super_res_first": "super_res", "super_res_1024": ""}
    for component, stage in stages.items():
        if folder.has(component):
            rows[f"sampling, {component}"] = _how(stage or component, says)
    if says.get("inpainting_candidates", 1) > 1:
        rows["inpainting"] = f"the best of {says['inpainting_candidates']}, as CLIP finds"
    if not index.get(DEFAULTS):
        rows["sampling"] = "as the published models, as this one says nothing of its own"
    if isinstance(index.get(TUNED), dict):
        rows["tuned"] = _tuned(index[TUNED], index)
    return rows


def _prior_words(kind: str, kinds: list[str], says: dict[str, Any], index: dict[str, Any]) -> str:
    from unclip.pipeline.settings import of_prior
    from unclip.stages.catalogue import prior_kinds

    drawn = " (draws by default)" if len(kinds) > 1 and says.get("prior", kinds[0]) == kind else ""
    own = of_prior(says, kind)
    if kind != prior_kinds()[0]:
        return f"guidance {own.get('prior_guidance_scale', 1.0):g}{drawn}"
    candidates = index.get("_prior_num_candidates", 1)
    best = f", the best of {_brief(candidates)}" if candidates != 1 else ""
    return _how("prior", own) + best + drawn


def _how(stage: str, says: dict[str, Any]) -> str:
    """Sampler, η and guidance of a stage."""
    from unclip.diffusion.registry import SAMPLERS
    from unclip.pipeline.settings import PRESETS, Settings, resolve

    preset = PRESETS["default"]
    found = resolve(stage, Settings(), getattr(preset, stage), says, preset.yields)
    noise = f", η = {found['eta']:g}" if SAMPLERS[found["sampler"]].takes_eta else ""
    scale = found.get("guidance_scale")
    guided = "" if scale is None else ", no guidance" if scale == 1 else f", guidance {scale:g}"
    return f"{found['sampler']}{noise}{guided}, {many(found['steps'], 'steps')}"


def _tuned(tuned: dict[str, Any], index: dict[str, Any]) -> str:
    """What of the defaults still is as measuring found it, and on what that was."""
    says, there = tuned.get("says"), index.get("_defaults")
    says, there = (one if isinstance(one, dict) else {} for one in (says, there))
    still = [key for key, value in says.items() if there.get(key) == value]
    changed = f"; {len(says) - len(still)} of it changed since" if len(still) < len(says) else ""
    before, after = (tuned.get(key) for key in ("before", "after"))
    numbers = isinstance(before, float | int) and isinstance(after, float | int)
    measured = f"{before:.3f} as it was, {after:.3f} now" if numbers else "no numbers"
    words = (_brief(tuned.get(key)) for key in ("captions", "data", "split"))
    return "on {} captions of {}, {}: {}{}".format(*words, measured, changed)


def _licence(card: Path) -> str:
    """The `license` in the heading of a model card."""
    raw = read_bytes(card).decode("utf-8", "replace")
    heading = raw.replace("\r\n", "\n").split("\n---", 1)[0]
    lines = [line.removeprefix("license:").strip() for line in heading.splitlines()[1:]
             if line.startswith("license:")]  # fmt: skip
    return str(_brief(lines[0])) if heading.startswith("---") and lines else "not said"


def _brief(value: Any) -> Any:
    """What a file holds, as it is where it is a short word or a number."""
    return value if isinstance(value, str | int) and len(str(value)) < 80 else shown(value)


def _weights(component: Path) -> str:
    """Parameters and precisions of each variant, from the headers of the weight files alone."""
    from unclip.storage.weights import variant_of, weight_files

    kinds = {variant_of(file) for file in component.glob("*.safetensors")}
    said = []
    for variant in sorted(kinds, key=str):
        count, precisions = _counted(weight_files(component, variant))
        label = f" (variant {variant})" if variant else ""
        said.append(f"{count:,} parameters in {', '.join(sorted(precisions))}{label}")
    return "; ".join(said) or "no weights"


def _counted(files: Sequence[Path]) -> tuple[int, set[str]]:
    from unclip.files import opened_safetensors

    count, precisions = 0, set[str]()
    for file in files:
        with opened_safetensors(file) as tensors:
            pieces = [tensors.get_slice(key) for key in tensors.keys()]  # noqa: SIM118
        count += sum(math.prod(piece.get_shape()) for piece in pieces)
        precisions |= {piece.get_dtype() for piece in pieces}
    return count, precisions


def _table(rows: dict[str, Any]) -> str:
    rows = {printable(key): value for key, value in rows.items()}
    width = max(map(len, rows))
    # A value of several lines, from a prompt or a card, would pass for rows of ours.
    return "\n".join(f"{key:<{width}}  {printable(str(value))}" for key, value in rows.items())

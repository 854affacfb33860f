"""Folders of extractors, probes and tables of ratings, of every wrong kind."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzz.case import Case, Good
from tests.fuzz.hostile import replace, spoil_bytes, spoil_json, spoil_safetensors
from unclip.evaluation.features.extractor import open_extractor
from unclip.evaluation.features.vit import VisionTransformer, ViTConfig
from unclip.evaluation.metrics.aesthetic import Probe
from unclip.evaluation.metrics.frechet import extrapolated, fid
from unclip.evaluation.metrics.mmd import cmmd, kid
from unclip.evaluation.metrics.neighbours import prdc
from unclip.evaluation.metrics.spread import clip_score, diversity
from unclip.evaluation.studies.taste import read_ratings
from unclip.files import write_json, write_safetensors

_VIT = {
    "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 16,
    "patch_size": 8, "intermediate_size": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip
_PREPARED = {
    "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 18}, "resample": 3,
    "crop_size": {"height": 16, "width": 16}, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.2, 0.2, 0.2], "do_resize": True, "do_normalize": True,
}  # fmt: skip
_RATINGS = ("3", "-1.5", "1e400", "nan", "", "good", "true", "٣", "0x10", "1_0", "9" * 5000, '"')
_THEIRS = {
    "self_attn": "x", "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
    "attention.out_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after",
}  # fmt: skip
_METRICS: tuple[Callable[..., Any], ...] = (fid, extrapolated, kid, cmmd, prdc, clip_score)


def make(random: Random, place: Path, good: Good) -> Case:
    return random.choice((_extractor, _extractor, _probe, _table, _features))(random)


def _extractor(random: Random) -> Case:
    """A tiny ViT whose folder is spoiled in one place."""
    folder = Path("vit")
    folder.mkdir()
    network = VisionTransformer(ViTConfig(**_VIT, layer_scale=False))
    tensors = {_published(key): tensor for key, tensor in network.state_dict().items()}
    write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", {"model_type": "vit", **_VIT})
    write_json(folder / "preprocessor_config.json", _PREPARED)
    file = random.choice(sorted(folder.iterdir()))
    of_kind = spoil_json if file.suffix == ".json" else spoil_safetensors
    said = random.choice((of_kind, of_kind, of_kind, spoil_bytes, replace))(random, file)
    images = torch.zeros(1, 3, random.choice((1, 16, 40)), 20)
    return Case(f"{file.name} {said}", call=lambda: open_extractor(folder, device="cpu")(images))


def _published(key: str) -> str:
    if not key.startswith(("blocks.", "norm.")):
        return "embeddings." + key.replace("patch.", "patch_embeddings.projection.")
    for ours, theirs in _THEIRS.items():
        key = key.replace(ours, theirs)
    return key.replace("blocks.", "encoder.layer.").replace("norm.", "layernorm.", 1)


def _probe(random: Random) -> Case:
    file = Path("probe.safetensors")
    Probe(torch.ones(6).double(), 1.0, "0123", {"r2": "1"}).save(file)
    said = (replace if random.random() < 0.15 else spoil_safetensors)(random, file)
    return Case(f"probe {said}", call=lambda: Probe.open(file).score(torch.ones(2, 6)))


def _table(random: Random) -> Case:
    rating, column = random.choice(_RATINGS), random.choice(("rating", "score", "x", "mean", ""))
    name = random.choice(("a.png", "../a.png", "", "\x1b[2J", "a" * 9000, "/etc/passwd"))
    file = Path(random.choice(("r.csv", "r.jsonl", "r.CSV", "r.parquet", "r.txt")))
    if file.suffix == ".jsonl":
        file.write_text(json.dumps({"file_name": name, column: rating}))
    else:
        file.write_text(f"file_name,{column}\n{name},{rating}\n")
    said = spoil_bytes(random, file) if random.random() < 0.3 else ""
    return Case(f"{file} {name[:20]!r} {column} {rating[:20]} {said}",
                call=lambda: read_ratings(file))  # fmt: skip


def _features(random: Random) -> Case:
    """Matrices of odd shapes and values."""
    values = (0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"))

    def matrix() -> torch.Tensor:
        shape = [random.choice((0, 1, 2, 3, 9, 40)) for _ in range(random.choice((2, 2, 2, 1, 3)))]
        shape = [shape[0], 4] if len(shape) == 2 and random.random() < 0.8 else shape
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(random.randrange(99)))
        if rows.numel() and random.random() < 0.5:
            rows.view(-1)[:: random.choice((1, 3, 7))] = random.choice(values)
        return rows.to(random.choice((torch.float32, torch.float64, torch.half, torch.int64)))

    a, b = matrix(), matrix()
    metric = random.choice((*_METRICS, diversity))
    arguments = (a,) if metric is diversity else (a, b)
    said = f"{metric.__name__} of {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
    return Case(said, call=lambda: metric(*arguments).to_dict())

"""A CLIP with finer patches, to train further: its image tower sees twice the patches a side.

python recipes/finer_patches.py src/unclip/assets/model models/finer

A patch's kernel becomes that of a quarter of it (areas averaged, the sum kept), so that flat
patches give what they gave; positions between the old ones are interpolated. Nothing but CLIP is
copied.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file, save_file

PARTS = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")
KERNEL = "vision_model.embeddings.patch_embedding.weight"  # (D, 3, p, p)
POSITIONS = "vision_model.embeddings.position_embedding.weight"  # (1 + side², D)


def finer(source: Path, target: Path) -> None:
    """Write the CLIP of one folder into another, with patches of half the side."""
    target.mkdir(parents=True)
    for part in PARTS:
        shutil.copytree(source / part, target / part)
    index = json.loads((source / "model_index.json").read_text())
    kept = {key: index[key] for key in ("_class_name", *PARTS)}
    (target / "model_index.json").write_text(json.dumps(kept, indent=2) + "\n")

    config_file = target / "image_encoder" / "config.json"
    config = json.loads(config_file.read_text())
    side = config["image_size"] // config["patch_size"]
    config["patch_size"] //= 2
    config_file.write_text(json.dumps(config, indent=2) + "\n")

    weights_file = target / "image_encoder" / "model.safetensors"
    weights = {name: tensor.float() for name, tensor in load_file(weights_file).items()}
    weights[KERNEL] = F.avg_pool2d(weights[KERNEL], 2) * 4
    first, grid = weights[POSITIONS].split([1, side**2])
    grid = grid.T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, scale_factor=2, mode="bicubic", align_corners=False)
    weights[POSITIONS] = F.pad(grid.flatten(2)[0].T, (0, 0, 1, 0)).index_copy_(
        0, first.new_zeros(1).long(), first
    )
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, weights_file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="model folder")
    parser.add_argument("target", type=Path, help="folder to make")
    arguments = parser.parse_args()
    finer(arguments.source, arguments.target)

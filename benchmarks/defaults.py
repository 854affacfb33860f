"""What a model's defaults are worth: the number that `unclip tune` goes by, and a sheet of images.

python benchmarks/defaults.py MODEL --data DATA -n 20 --sheet out/defaults.png

Compares the published models' defaults, those that training writes of stages that can be guided and
those of the folder, on captions that `unclip tune` measures again on, from the same noise. The
sheet's rows are the real images and these three.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unclip.evaluation.studies.captioned import Unseen
from unclip.evaluation.studies.tuning import Study, made, present, real
from unclip.outputs.images import save_png
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import published
from unclip.pixels import to_uint8
from unclip.stages.suiting import of_decoder, of_prior
from unclip.storage.folder import ModelFolder
from unclip.storage.hub import resolve_model

_SEED, _COLUMNS, _ZOOM = 2**20, 10, 3


def choices(pipe: Pipeline) -> dict[str, dict[str, Any]]:
    """What is compared, by name."""
    own, layout = present(pipe), published()
    theirs = {
        key: layout.get(key, layout.get(key.rpartition("_")[2], said)) for key, said in own.items()
    }
    theirs["prior_num_candidates"] = 2
    trained = theirs | of_prior(guidable=True) | of_decoder(guidable=True)
    return {"the published layout's": theirs, "written by training": trained, "the folder's": own}


def sheet(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images (C, 3, H, W) as one (3, R · H, C · W), each pixel as `_ZOOM` squared."""
    whole = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return whole.repeat_interleave(_ZOOM, dim=1).repeat_interleave(_ZOOM, dim=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", help="as of `unclip tune`")
    parser.add_argument("-n", type=int, default=20, help="captions, with two images each")
    parser.add_argument("--guidance", type=float, nargs="+", help="the folder's with other scales")
    parser.add_argument("--sheet", type=Path, help="PNG of the first images")
    options = parser.parse_args()
    folder = resolve_model(str(options.model), None, None, ())
    pipe = Pipeline.from_pretrained(folder)
    unseen = Unseen.open(ModelFolder(folder), options.data, pipe.decoder.size)
    captions, images = unseen.two_sets(options.n, 0)[1]
    print(f"{len(captions)} captions of {unseen.said}")
    study = Study(pipe, real(pipe, captions, images, unseen.wrong()), _SEED, print)
    rows, first = [images[:_COLUMNS]], None
    compared = choices(pipe)
    for scale in options.guidance or ():
        changed = {"decoder_guidance_scale": scale}
        compared[f"the folder's, guidance {scale:g}"] = compared["the folder's"] | changed
    for name, says in compared.items():
        found = study.measure(says)
        study.tell(name, found, first)
        first = first or found
        rows.append(made(pipe, captions[:_COLUMNS], says, _SEED)[:, 0])
    if options.sheet:
        pixels = to_uint8(sheet(rows)).permute(1, 2, 0).numpy()
        save_png(Image.fromarray(pixels), options.sheet, {"prompt": captions[:_COLUMNS]})
        print("; ".join(captions[:_COLUMNS]))


if __name__ == "__main__":
    main()

"""The upsamplers of a model folder against true scenes and bicubic: PSNR, SSIM, edges.

python benchmarks/upsampling.py [--model DIR] [-n 32] [--steps default] [--precision auto]
    [--sheet FILE]

Small images are held-out scenes of the built-in world averaged down, and for the second upsampler
also degraded by BSR, each enlarged once; prints a markdown table. With --sheet, the first three of
the last kind are written as a picture: small, bicubic, made, true.
"""

import argparse

from torch import Tensor
from tqdm import tqdm

from unclip.data.transforms import to_pil
from unclip.data.world.scene import WorldConfig
from unclip.device.precision import name_of
from unclip.evaluation.studies.upsampling import measure, table
from unclip.outputs.images import contact_sheet
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.stages.upsampler import SECOND

SHOWN = 3  # scenes in the picture
# What the recipes of the bundled model train on.
WORLD = WorldConfig(
    max_objects=2,
    sizes=("medium", "large"),
    textures=("plain",),
    styles=("plain",),
    split="held-out",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("-n", type=int, default=32, help="scenes")
    parser.add_argument("--steps", default="default", help="preset of sampler and steps")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", help="where to write a picture")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model, dtype=options.precision, device=options.device)
    if not pipe.upsamplers:
        raise SystemExit("this model has no upsampler")
    rows = []
    shown: list[dict[str, Tensor]] = []
    for small, upsampler in zip(pipe.sizes, pipe.upsamplers, strict=False):
        second = upsampler.component == SECOND
        sampling = pipe.sampling(SECOND if second else "super_res", Settings(options.steps))
        for degradation in ("none", "bsr") if second else ("none",):
            shown.clear()
            with tqdm(total=options.n, leave=False, desc=f"{small} → {upsampler.size}") as bar:

                def seen(images: dict[str, Tensor], bar: tqdm = bar) -> None:
                    if len(shown) < SHOWN:
                        shown.append(images)
                    bar.update()

                rows.append(
                    measure(upsampler, small, sampling, WORLD, options.n, degradation, seen)
                )
    print(f"{options.n} held-out scenes, {name_of(pipe.dtype)} on {pipe.device}\n")
    print(table(rows))
    if options.sheet:
        cells = [[to_pil(image[0]) for image in images.values()] for images in shown]
        contact_sheet(cells, column_labels=list(shown[0]), path=options.sheet, cell=192)


if __name__ == "__main__":
    main()

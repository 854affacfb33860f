"""A scene built by repeated edits, as in GLIDE (arXiv 2112.10741, figure 3).

    python examples/scene_by_edits.py --output out/scene.png

A first caption is drawn; then one box after the other is repainted for a caption of its own, and
everything outside the box stays as it was. The sheet shows each step, and below it what is
repainted. Captions and boxes are for the bundled model; change SCENE for another one.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from unclip import Pipeline, Settings
from unclip.pipeline.images import contact_sheet

FIRST = "a red circle on a white background"
SCENE = [  # x0, y0, x1, y1 in eighths of the image's side, and the caption that is painted there
    ((5, 0, 8, 3), "a blue square on a white background"),
    ((0, 5, 3, 8), "a yellow star on a white background"),
    ((5, 5, 8, 8), "a green triangle on a white background"),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build a scene by repainting one part of an image after the other."""

    model: str | None = None
    """A model folder; the bundled model if left out."""
    output: Path = Path("out/scene.png")
    seed: int = 0
    size: int | None = None
    """Pixels of a side, one of the model's sizes; the largest if left out."""
    prior_steps: int | None = None
    decoder_steps: int | None = None
    super_res_steps: int | None = None
    resamples: int | None = None
    """Times that the decoder's steps are gone through for each edit."""


def main(options: Options) -> None:
    pipe = Pipeline.from_pretrained(options.model)
    settings = Settings(
        prior_num_inference_steps=options.prior_steps,
        decoder_num_inference_steps=options.decoder_steps,
        super_res_num_inference_steps=options.super_res_steps,
        size=options.size,
        resamples=options.resamples,
    )
    image = pipe(FIRST, seed=options.seed, settings=settings).images[0]
    images: list[Image.Image] = [image]
    holes: list[Image.Image | None] = [None]
    for step, (eighths, prompt) in enumerate(SCENE, 1):
        x0, y0, x1, y1 = (round(x * image.width / 8) for x in eighths)
        hole = images[-1].copy()
        hole.paste((127, 127, 127), (x0, y0, x1, y1))
        made = pipe.inpaint(
            images[-1], prompt, boxes=[(x0, y0, x1, y1)], seed=options.seed + step,
            settings=settings,
        )  # fmt: skip
        images.append(made.images[0])
        holes.append(hole)
    captions = [FIRST, *(prompt for _, prompt in SCENE)]
    contact_sheet([images, holes], ["image", "repainted"], captions, options.output)
    print(f"a scene of {len(SCENE)} edits, {image.width} pixels a side: {options.output}")


if __name__ == "__main__":
    main(tyro.cli(Options))

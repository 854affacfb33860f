"""A scene built by repeated edits, as in GLIDE (arXiv 2112.10741, figure 3).

A first caption is drawn; then one box after the other is repainted for the caption of what the
image shows then, and everything outside the box stays as it was. The sheet shows every step, and
what is repainted.

python examples/scene_by_edits.py --out out/examples
"""

import argparse
from pathlib import Path

from unclip import Pipeline
from unclip.outputs.images import contact_sheet

FIRST = "a yellow star above a blue square at night"
SCENE = [  # x0, y0, x1, y1 in eighths of the image's side, and what the whole image shows then
    ((0, 0, 8, 4), "a red heart above a blue square at night"),
    ((0, 4, 8, 8), "a red heart above a green triangle at night"),
    ((0, 0, 8, 4), "a white cross above a green triangle at night"),
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, default=25, help="of the decoder")
    parser.add_argument("--resamples", type=int, help="times that they are gone through")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    images = pipe(FIRST, decoder_num_inference_steps=options.steps).images
    holes = [None]
    for seed, (eighths, prompt) in enumerate(SCENE, 11):
        x0, y0, x1, y1 = (round(x * images[0].width / 8) for x in eighths)
        hole = images[-1].copy()
        hole.paste("grey", (x0, y0, x1, y1))
        holes.append(hole)
        images += pipe.inpaint(
            images[-1],
            prompt,
            boxes=[(x0, y0, x1, y1)],
            seed=seed,
            decoder_num_inference_steps=options.steps,
            resamples=options.resamples,
        ).images
    labels = [FIRST, *(prompt for _, prompt in SCENE)]
    contact_sheet([images, holes], ["image", "repainted"], labels, options.out / "scene.png")
    print(options.out / "scene.png")


if __name__ == "__main__":
    main()

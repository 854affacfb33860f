"""Variations of a picture (section 3.1): what CLIP sees in it stays, the rest is drawn anew.

The first row starts from fresh noise. The second starts from the picture's own noise, found by
inversion, and lets go of it more and more: η = 0 gives back the picture.

python examples/variations.py out/examples/0.png --out out/examples
"""

import argparse
from pathlib import Path

from unclip import Pipeline
from unclip.data.transforms import open_image
from unclip.outputs.images import contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("-n", type=int, default=4, help="variations in a row")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    picture, size = open_image(options.image), pipe.decoder.size  # without the upsampler
    fresh = pipe.vary(
        picture, options.n, size=size, decoder_num_inference_steps=options.steps
    ).images
    latents = pipe.invert(picture, options.steps)
    etas = [i / max(options.n - 1, 1) for i in range(options.n)]
    near = [pipe.vary(latents, eta=eta, size=size).images[0] for eta in etas]
    contact_sheet(
        [[picture, *fresh], [picture, *near]],
        ["fresh noise", f"η = 0 … {etas[-1]:.1f}"],
        ["the picture"],
        options.out / "variations.png",
    )
    print(options.out / "variations.png")


if __name__ == "__main__":
    main()

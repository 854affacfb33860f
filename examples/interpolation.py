"""The way from one picture to another (section 3.2), as a moving picture.

Both latents turn along great circles: z_i from what the one shows to what the other shows, x_T
from noise to noise. The ends are the pictures themselves.

python examples/interpolation.py out/examples/0.png out/examples/2.png --out out/examples
"""

import argparse
from pathlib import Path

from unclip import Pipeline
from unclip.data.transforms import open_image
from unclip.outputs.animation import save_animation


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs=2, type=Path)
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("-n", type=int, default=12, help="frames")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    latents = pipe.invert([open_image(path) for path in options.images], options.steps)
    frames = pipe.blend(latents, options.n, size=pipe.decoder.size).images
    there_and_back = [*frames, *reversed(frames[1:-1])]
    save_animation(there_and_back, options.out / "interpolation.apng", {})
    print(options.out / "interpolation.apng")


if __name__ == "__main__":
    main()

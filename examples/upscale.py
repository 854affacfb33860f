"""A picture of any size and shape made larger by the upsamplers alone, beside plain bicubic.

python examples/upscale.py out/examples/0.png --out out/examples
"""

import argparse
from pathlib import Path

from PIL import Image

from unclip import Pipeline
from unclip.data.transforms import open_image
from unclip.outputs.images import contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, help="of each upsampler")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    picture = open_image(options.image)
    picture.thumbnail((pipe.decoder.size, pipe.decoder.size))  # what upsamplers are trained on
    larger = pipe.upscale(picture, super_res_num_inference_steps=options.steps).images[0]
    plain = picture.resize(larger.size, Image.Resampling.BICUBIC)
    options.out.mkdir(parents=True, exist_ok=True)
    larger.save(options.out / "larger.png")
    labels = [f"{picture.width} × {picture.height}", "bicubic", "upsampled"]
    contact_sheet([[picture, plain, larger]], [], labels, options.out / "upscaled.png")


if __name__ == "__main__":
    main()

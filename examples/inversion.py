"""Pictures taken apart into (z_i, x_T) and put together again (section 3), with the PSNR.

More steps lead back more exactly. The latents are kept in a file that knows its model; `unclip
vary`, `blend` and `edit` read it as well.

python examples/inversion.py out/examples/0.png out/examples/1.png --out out/examples
"""

import argparse
from pathlib import Path

from unclip import Latents, Pipeline
from unclip.data.transforms import open_image
from unclip.outputs.images import contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100])
    options = parser.parse_args(arguments)

    # The bf16 that a machine may prefer rounds at every step; here exactness is the point.
    pipe = Pipeline.from_pretrained(options.model, dtype="fp32")
    pictures = [open_image(path) for path in options.images]
    columns = [pictures]
    for steps in options.steps:
        latents = pipe.invert(pictures, steps)
        for path, decibels in zip(options.images, pipe.psnr(pictures, latents), strict=True):
            print(f"{path}, {steps} steps: {decibels:.1f} dB")
        columns.append(pipe.reconstruct(latents, size=pipe.decoder.size).images)
    options.out.mkdir(parents=True, exist_ok=True)
    latents.save(options.out / "latents.safetensors")
    assert len(Latents.load(options.out / "latents.safetensors")) == len(pictures)
    rows = list(zip(*columns, strict=True))
    labels = ["the picture", *(f"{steps} steps" for steps in options.steps)]
    contact_sheet(rows, [path.name for path in options.images], labels, options.out / "back.png")


if __name__ == "__main__":
    main()

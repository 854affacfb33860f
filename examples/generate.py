"""Images for captions. Image k of a caption has the seed seed + k, alone as in a batch.

python examples/generate.py "a red star at night" "a purple square by the sea" --out out/examples
"""

import argparse
from pathlib import Path

from unclip import Pipeline


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [
        "a red star on a green background",
        "a purple square by the sea",
    ]  # by the bundled model
    parser.add_argument("captions", nargs="*", default=known)
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, help="of prior, decoder and upsampler")
    parser.add_argument("-n", type=int, default=2, help="images for each caption")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    made = pipe(
        options.captions,
        options.n,
        seed=7,
        prior_num_inference_steps=options.steps,
        decoder_num_inference_steps=options.steps,
        super_res_num_inference_steps=options.steps,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for i, (image, caption, seed) in enumerate(
        zip(made.images, made.prompts, made.seeds, strict=True)
    ):
        image.save(options.out / f"{i}.png")
        print(f"{options.out / f'{i}.png'}: {caption}, seed {seed}")


if __name__ == "__main__":
    main()

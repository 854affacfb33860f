"""The diffusion prior beside the autoregressive one: the same captions, seeds and decoder.

A model has both after `unclip train prior` and `unclip train ar-prior`. The numbers are the mean
cosines of the images' embeddings to their captions': how well the images keep to them.

python examples/compare_priors.py "a red star" "a purple square by the sea" --model models/mine
"""

import argparse
from pathlib import Path

import torch.nn.functional as F

from unclip import Pipeline
from unclip.outputs.images import contact_sheet
from unclip.stages.catalogue import prior_kinds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", nargs="+")
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, help="of diffusion prior and decoder")
    parser.add_argument("-n", type=int, default=3, help="images for each caption and prior")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    steps = {f"{part}_num_inference_steps": options.steps for part in ("prior", "decoder")}
    rows = [[] for _ in options.captions]
    for prior in prior_kinds():
        made = pipe(options.captions, options.n, prior=prior, size=pipe.decoder.size, **steps)
        z_i, z_t = pipe.embed_images(made.images), pipe.embed_texts(made.prompts)
        print(f"{prior} prior: cosine {F.cosine_similarity(z_i, z_t).mean():.3f}")
        for k, row in enumerate(rows):
            row += made.images[k * options.n : (k + 1) * options.n]
    labels = [prior for prior in prior_kinds() for _ in range(options.n)]
    contact_sheet(rows, options.captions, labels, options.out / "priors.png")


if __name__ == "__main__":
    main()

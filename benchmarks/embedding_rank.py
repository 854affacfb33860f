"""How many principal components the image embeddings of a model need: the rank of its space.

python benchmarks/embedding_rank.py [MODEL ...] [-n 4096] [--data emoji:shapes]

The paper trains its CLIP with sharpness-aware minimisation (`--optimiser.rho 0.1`) and finds that
it lowers this number, which is what makes the autoregressive prior's codes few (appendix C,
section 2.2). Prints a Markdown table with a row for each model, the bundled one if none is named.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch

from unclip.data.registry import format_of, open_source
from unclip.data.sources import length, read
from unclip.device.precision import device_named
from unclip.interfaces.cli.evaluations.shared import WORLD
from unclip.networks.pca import Components, Moments
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder, bundled

SHARES = (0.9, 0.95, 0.99, 0.999)  # of the variance
_BATCH = 64


def moments_of(model: Path, data: str, count: int, device: torch.device) -> Moments:
    """Of the z_i of the first `count` images that the model is shown."""
    clip = FrozenCLIP.load(ModelFolder(model), torch.float32).to(device)
    if clip.image_encoder is None:
        raise SystemExit(f"{model} has no image_encoder")
    size = max(32, clip.image_encoder.config.image_size)
    split = "train" if format_of(data).holds_out == "itself" else "all"
    source = open_source(data, size=size, split=split, options={"emoji": WORLD})
    samples = read(source, range(min(count, length(source))))
    moments = Moments(clip.width)
    while images := [sample["image"] for sample in islice(samples, _BATCH)]:
        moments.add(clip.image(to_signed(torch.stack(images).to(device))))
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="model folders")
    parser.add_argument("-n", type=int, default=4096, help="images")
    parser.add_argument("--data", default="emoji:shapes")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    head = ["model", "width", *(f"{share:.1%} of variance" for share in SHARES)]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for model in options.models or [bundled("model")]:
        moments = moments_of(model, options.data, options.n, device_named(options.device))
        ranks = [len(Components.of(moments).within(1 - share).axes) for share in SHARES]
        cells = [model.name, len(moments.mean), *ranks]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()

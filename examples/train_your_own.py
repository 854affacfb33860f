"""A whole unCLIP, small, trained on a folder of images with captions: the stages, one by one.

`unclip train` does the same from the command line, with checkpoints that can be resumed. Images
need captions beside them: NNN.png and NNN.txt, metadata.jsonl or captions.csv.

python examples/train_your_own.py my-images --model models/mine --steps 2000
"""

import argparse
from pathlib import Path

from unclip import Pipeline
from unclip.stages.catalogue import STAGES
from unclip.stages.spec import parse_recipe
from unclip.training.job import Folders
from unclip.training.start import start

NETWORKS = {  # every field that is left out has the stage's default
    "clip": {"size": "tiny", "vocab_size": 1024},
    "prior": {
        "num_layers": 4,
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "statistics": 256,
    },
    "decoder": {"widths": [32, 64, 96], "layers": 1, "head_width": 32, "groups": 8},
    "upsampler": {"factor": 2, "widths": [16, 32], "layers": 1, "groups": 8},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="a folder of captioned images, or emoji:shapes")
    parser.add_argument("--caption", default="a red circle", help="what to draw in the end")
    parser.add_argument("--model", type=Path, default=Path("models/mine"))
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, default=2000, help="of training, for each stage")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="pixels; the upsampler doubles them")
    options = parser.parse_args(arguments)

    for name, network in NETWORKS.items():
        size = options.size * (2 if name == "upsampler" else 1)
        changed = {
            "network": network,
            "data": {"source": options.images, "size": size, "workers": 0},
            "training": {
                "steps": options.steps,
                "batch_size": options.batch,
                "ema": 0.999,
                "precision": "fp32",
            },
            "optimiser": {"learning_rate": 1e-3},
        }
        recipe = parse_recipe(STAGES[name], changed, name)
        where = Folders(options.model, options.out / "runs" / name, overwrite=True)
        if start(STAGES[name], recipe, where):
            return  # by Ctrl-C
    options.out.mkdir(parents=True, exist_ok=True)
    made = Pipeline.from_pretrained(options.model)(options.caption, steps="fast")
    made.images[0].save(options.out / "trained.png")


if __name__ == "__main__":
    main()

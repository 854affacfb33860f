"""Embeddings that nobody drew: whatever you compute, `decode_embeddings` makes an image of it.

Here: the mean of some texts' embeddings, moved to where images lie. Those of texts and of images
lie apart in CLIP's space, so the mean text embedding is replaced by the mean image embedding.

python examples/your_own_embeddings.py "a red star" "a yellow heart" --out out/examples
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from unclip import Pipeline
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.outputs.images import contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, help="of the decoder")
    parser.add_argument("-n", type=int, default=64, help="scenes that the means are taken of")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    world = World(WorldConfig(max_objects=1))
    scenes = [world[i] for i in range(options.n)]
    image_mean = pipe.embed_images([Image.fromarray(pixels) for pixels, _ in scenes]).mean(dim=0)
    text_mean = pipe.embed_texts([caption for _, caption in scenes]).mean(dim=0)
    mine = pipe.embed_texts(options.texts) - text_mean + image_mean  # (N, D)
    mine = torch.cat([mine, mine.mean(dim=0, keepdim=True)])
    made = pipe.decode_embeddings(
        mine, size=pipe.decoder.size, decoder_num_inference_steps=options.steps
    )
    labels = [*options.texts, "their mean"]
    contact_sheet([made.images], [], labels, options.out / "embeddings.png")


if __name__ == "__main__":
    main()

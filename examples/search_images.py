"""CLIP alone: the images of a folder that fit a text best, and what each of them shows.

The first is retrieval: images ordered by the cosine of their embedding and the text's. The second
is zero-shot classification: of some descriptions, the nearest to each image.

python examples/search_images.py out/examples --text "a red star" --classes star heart circle
"""

import argparse
from pathlib import Path

import torch.nn.functional as F

from unclip import Pipeline
from unclip.data.transforms import open_image
from unclip.data.walk import walk
from unclip.evaluation.metrics.retrieval import class_embeddings
from unclip.outputs.images import contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", default="a red star")
    parser.add_argument("--classes", nargs="+", default=["star", "heart", "circle", "square"])
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/found"))
    parser.add_argument("-n", type=int, default=5, help="images to find")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    files = [options.folder / name for name in walk(options.folder).images]
    images = [open_image(path) for path in files]
    z_i = F.normalize(pipe.embed_images(images), dim=1)  # (N, D)
    z_t = F.normalize(pipe.embed_texts(options.text), dim=1)  # (1, D)
    cosines = (z_i @ z_t.T).squeeze(1)
    classes = (z_i @ class_embeddings(pipe.clip, options.classes).T).argmax(dim=1)  # (N,)
    for path, cosine, nearest in zip(files, cosines, classes, strict=True):
        print(
            f"{path.name}: {cosine:.3f} to {options.text!r}, most like a {options.classes[nearest]}"
        )
    best = cosines.argsort(descending=True)[: options.n].tolist()
    labels = [f"{files[i].name} {cosines[i]:.2f}" for i in best]
    contact_sheet([[images[i] for i in best]], [options.text], labels, options.out / "found.png")


if __name__ == "__main__":
    main()

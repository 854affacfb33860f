"""A picture changed by the difference of two captions (section 3.3), further and further.

z_d points from the first caption's embedding to the second's; z_i turns towards it by θ while the
picture's own noise x_T stays. θ = 0 gives back the picture, the paper goes up to 0.25 or 0.5.

python examples/edit_by_words.py out/examples/0.png "a red star on a green background" \\
    "a red star at night" --out out/examples
"""

import argparse
from pathlib import Path

from unclip import Pipeline
from unclip.data.transforms import open_image
from unclip.outputs.images import contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("was", help="what it shows")
    parser.add_argument("becomes", help="what it should show")
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("-n", type=int, default=6, help="values of θ, from 0 to 0.5")
    options = parser.parse_args(arguments)

    pipe = Pipeline.from_pretrained(options.model)
    picture = open_image(options.image)
    latents = pipe.invert(picture, options.steps)
    thetas = [0.5 * i / max(options.n - 1, 1) for i in range(options.n)]
    edits = pipe.edit(latents, options.becomes, options.was, thetas, size=pipe.decoder.size).images
    contact_sheet(
        [[picture, *edits]],
        [f"{options.was} → {options.becomes}"],
        ["the picture", *(f"θ = {theta:.1f}" for theta in thetas)],
        options.out / "edit.png",
    )
    print(options.out / "edit.png")


if __name__ == "__main__":
    main()

"""Both priors of a model compared: quality for the operations of training and of sampling.

python benchmarks/priors.py [MODEL] [-n 200] [--recipes recipes/bundled-prior.toml
    recipes/bundled-ar-prior.toml]

As the paper does (section 2.2), which finds the diffusion prior better for its operations. Held-out
scenes of the built-in world; composition by the bundled judge. Operations are counted, not timed:
of training from the recipes, forward and backward with CLIP; of sampling, one z_i with the model's
own settings, candidates and guidance included. Prints a Markdown table.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common import operation_counter
from unclip.data.world.world import World
from unclip.evaluation.judge.network import load_judge
from unclip.evaluation.metrics.composition import Composition, evaluate_model, held_out
from unclip.interfaces.cli.evaluations.shared import WORLD, generator
from unclip.pipeline.loading import LoadedModel
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.requests import noise_for
from unclip.pipeline.settings import Settings
from unclip.pixels import to_signed
from unclip.stages.catalogue import STAGES
from unclip.stages.spec import load_recipe
from unclip.storage.folder import ModelFolder, bundled

ROOT = Path(__file__).parents[1]
RECIPES = [str(ROOT / "recipes" / f"bundled-{name}.toml") for name in ("prior", "ar-prior")]
SHOWN = ("object", "colour", "background", "relation", "binding", "exact")
_PROBE = 2  # images that training is counted on


def scenes(world: World, count: int, size: int) -> dict[str, Any]:
    """Held-out captioned images (count, 3, size, size) in [-1, 1]."""
    drawn = [world.scene(i) for i in range(count)]
    pixels = torch.stack([torch.from_numpy(world.render(scene, size)) for scene in drawn])
    images = to_signed(pixels.permute(0, 3, 1, 2))
    return {"images": images, "captions": [scene.caption for scene in drawn]}


def training_operations(stage: Any, recipe: Any, batch: dict[str, Any]) -> float:
    """Of the whole run that the recipe describes, from the loss of a few images."""
    few = {"images": batch["images"][:_PROBE], "captions": batch["captions"][:_PROBE]}
    for name, parameter in stage.network.named_parameters():  # all but what is only measured
        parameter.requires_grad_(not name.startswith(("codec.", "clip_")))
    with operation_counter() as counter:
        stage.loss(few, torch.Generator(stage.clip.device).manual_seed(0))["loss"].backward()
    stage.network.requires_grad_(False).zero_grad()
    images: int = recipe.training.batch_size * recipe.training.steps
    return counter.get_total_flops() / _PROBE * images


def embeddings(pipe: Pipeline, captions: list[str], settings: Settings) -> Tensor:
    """z_i (N, D) for captions, image i from seed i."""
    made = []
    for i, caption in enumerate(captions):
        text = pipe.clip.text([caption])
        made.append(pipe.embed(text, noise_for(None, [i], slice(0, 1)), settings))
    return torch.cat(made)


def row(
    pipe: Pipeline, kind: str, stage: Any, recipe: Any, batch: dict[str, Any], judge: Any
) -> list[str]:
    """One prior's numbers, as cells; `stage` is the prior as it is trained, not packed."""
    settings = Settings(prior=kind)
    training = training_operations(stage, recipe, batch)
    with torch.no_grad(), operation_counter() as counter:
        embeddings(pipe, batch["captions"][:1], settings)
    with torch.no_grad():
        truth = pipe.clip.image(batch["images"])
        made = embeddings(pipe, batch["captions"], settings)
    plain = F.cosine_similarity(made, truth).mean()
    centred = F.cosine_similarity(made - truth.mean(0), truth - truth.mean(0)).mean()
    generate = generator(pipe, settings, 16, lambda images: None)
    count = len(batch["captions"])
    rates: Composition = evaluate_model(generate, judge, WORLD, count, trust=True).generated
    parameters = sum(p.numel() for p in stage.network.parameters())
    shown = [f"{rates.rates()[name].accuracy:.1%}" for name in SHOWN]
    return [
        kind, f"{parameters / 1e6:.2f} M", f"{training / 1e15:.3f}",
        f"{counter.get_total_flops() / 1e9:.3f}", f"{plain:.4f}", f"{centred:.4f}", *shown,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="the bundled model if left out")
    parser.add_argument("-n", type=int, default=200, help="held-out scenes")
    parser.add_argument("--recipes", nargs=2, default=RECIPES, metavar="FILE",
                        help="of the diffusion prior and of the autoregressive one")  # fmt: skip
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model, dtype="fp32", device=options.device)
    folder = ModelFolder(Path(options.model) if options.model else bundled("model"))
    trained = LoadedModel.load(folder, torch.float32, pipe.device)
    judge = load_judge(None).to(pipe.device)
    world = held_out(replace(WORLD, size=max(32, pipe.decoder.size)))
    batch = scenes(world, max(options.n, _PROBE), pipe.decoder.size)
    batch["images"] = batch["images"].to(pipe.device)
    head = ["prior", "parameters", "training, PFLOP", "sampling, GFLOP", "cosine to z_i",
            "cosine, centred", *SHOWN]  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    names = ("prior", "ar-prior")
    for stage, name, file in zip(trained.priors, names, options.recipes, strict=True):
        recipe = load_recipe(STAGES[name], Path(file))
        print(f"| {' | '.join(row(pipe, stage.KIND, stage, recipe, batch, judge))} |", flush=True)


if __name__ == "__main__":
    main()

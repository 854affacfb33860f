"""Models with both priors, or with the autoregressive one alone."""

import shutil
from pathlib import Path

import pytest
import torch

from unclip import Pipeline
from unclip.acceleration.offload import is_offloaded
from unclip.files import read_json, write_json
from unclip.interfaces.cli.commands.info import describe_model
from unclip.storage.folder import ModelFolder

FAST = {"steps": "fast", "output_type": "tensor"}


def opened(path: Path, **options: bool) -> Pipeline:
    return Pipeline.from_pretrained(path, device="cpu", dtype="fp32", **options)


@pytest.fixture(scope="module")
def pipe(tiny_priors: Path) -> Pipeline:
    return opened(tiny_priors)


@pytest.fixture
def codes_only(tiny_priors: Path, tmp_path: Path) -> Path:
    """The model without its diffusion prior."""
    path = Path(shutil.copytree(tiny_priors, tmp_path / "codes"))
    index = read_json(path / "model_index.json")
    for name in ("prior", "prior_scheduler"):
        shutil.rmtree(path / name)
        del index[name]
    write_json(path / "model_index.json", index)
    return path


@pytest.mark.parametrize("prior", ["diffusion", "autoregressive"])
def test_damaged_weights_are_refused(tiny_priors: Path, prior: str) -> None:
    damaged = opened(tiny_priors)
    with torch.no_grad():
        for weight in damaged.priors[prior].network.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        damaged("a star", prior=prior, **FAST)  # type: ignore[arg-type]


def test_the_prior_can_be_chosen(pipe: Pipeline, tiny_model: Path) -> None:
    prompt = "a red circle"
    default, diffusion, codes = (
        pipe(prompt, prior=prior, **FAST).images  # type: ignore[arg-type]
        for prior in (None, "diffusion", "autoregressive")
    )
    assert torch.equal(default, diffusion)
    assert (codes - diffusion).abs().max() > 1e-3
    alone = opened(tiny_model)
    assert torch.equal(alone(prompt, **FAST).images, default)  # type: ignore[arg-type]
    pipe.defaults["prior"] = "autoregressive"
    try:
        assert torch.equal(pipe(prompt, **FAST).images, codes)  # type: ignore[arg-type]
    finally:
        del pipe.defaults["prior"]


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(pipe: Pipeline) -> None:
    # One step after the prior: random weights amplify rounding from step to step.
    one = {f"{stage}_num_inference_steps": 1 for stage in ("decoder", "super_res")}
    options = {"prior": "autoregressive", "output_type": "tensor", **one}
    prompts = ["a red circle", "a large yellow star above a small blue square at night"]
    apart = pipe(prompts, 2, **options).images  # type: ignore[arg-type]
    together = pipe(prompts, 2, batch_size=4, **options).images  # type: ignore[arg-type]
    assert (apart - together).abs().max() < 1e-3
    alone = pipe(prompts[1], seed=1, **options).images  # type: ignore[arg-type]
    assert torch.equal(alone, apart[3:])


def test_progress_counts_the_codes(pipe: Pipeline) -> None:
    seen = []
    settings = {"steps": "fast", "prior": "autoregressive"}
    pipe("a star", callback_on_step_end=lambda *step: seen.append(step[-1]["stage"]), **settings)  # type: ignore[arg-type]
    from unclip.pipeline.settings import Settings

    assert len(seen) == pipe.evaluations(Settings(**settings))  # type: ignore[arg-type]
    assert pipe.autoregressive_prior is not None
    assert seen.count("prior") == pipe.autoregressive_prior.steps


def test_one_prior_is_enough(codes_only: Path, pipe: Pipeline, tmp_path: Path) -> None:
    alone = opened(codes_only)
    made = alone("a star", **FAST).images  # type: ignore[arg-type]
    assert torch.equal(made, pipe("a star", prior="autoregressive", **FAST).images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no diffusion prior, only the autoregressive one"):
        alone("a star", prior="diffusion")
    assert "complete" in describe_model(codes_only)
    assert "missing" not in describe_model(codes_only)
    alone.save_pretrained(tmp_path / "saved")
    assert torch.equal(opened(tmp_path / "saved")("a star", **FAST).images, made)  # type: ignore[arg-type]


def test_both_are_saved(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    folder = ModelFolder(tmp_path / "saved")
    assert all(folder.has(name) for name in ("prior", "prior_scheduler", "autoregressive_prior"))


def test_priors_that_are_not_there(tiny_model: Path) -> None:
    pipe = opened(tiny_model)
    with pytest.raises(ValueError, match="has no autoregressive prior, only the diffusion one"):
        pipe("a star", prior="autoregressive")
    with pytest.raises(ValueError, match="unknown prior 'autoregresive'; did you mean"):
        pipe("a star", prior="autoregresive")


def test_its_weights_too_are_read_when_they_are_needed(tiny_priors: Path, pipe: Pipeline) -> None:
    slim = opened(tiny_priors, offload=True)
    assert slim.autoregressive_prior is not None
    network, seen = slim.autoregressive_prior.network, set()
    assert is_offloaded(network)

    def note(*step: object) -> None:
        state = step[-1]
        assert isinstance(state, dict)
        seen.add((state["stage"], is_offloaded(network)))

    options = FAST | {"prior": "autoregressive"}
    made = slim("a star", callback_on_step_end=note, **options).images  # type: ignore[arg-type]
    assert torch.equal(made, pipe("a star", **options).images)  # type: ignore[arg-type]
    assert seen == {("prior", False), ("decoder", True), ("super_res", True)}


def test_two_priors_of_one_kind_and_strange_defaults_are_refused(tiny_priors: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_priors, dtype="fp32", device="cpu")
    assert pipe.prior is not None
    with pytest.raises(ValueError, match="two priors of one kind"):
        Pipeline(pipe.clip, [pipe.prior, pipe.prior], pipe.decoder)
    for wrong in ({"foo": 1}, {"eta": 5}, {"sampler": "x"}, {"decoder_guidance_scale": "8"}):
        with pytest.raises(ValueError, match="defaults"):
            Pipeline(pipe.clip, pipe.prior, pipe.decoder, defaults=wrong)
    with pytest.raises(ValueError, match=next(iter(pipe.priors))):
        Pipeline(pipe.clip, pipe.prior, pipe.decoder, defaults={"prior": "none"})

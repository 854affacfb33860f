"""The whole model as a Python object: seeds, arguments, saving, and everything that is refused."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unclip import Pipeline, Settings
from unclip.storage.folder import ModelFolder

QUICK: dict[str, Any] = {
    "prior_num_inference_steps": 3,
    "decoder_num_inference_steps": 3,
    "super_res_num_inference_steps": 2,
    "output_type": "tensor",
}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


def make(pipe: Pipeline, prompt: str | list[str] = "a red circle", *args: Any, **more: Any) -> Any:
    return pipe(prompt, *args, **{**QUICK, **more}).images


# ---- what decides an image ------------------------------------------------------------------


def test_a_seed_is_the_same_image_alone_in_a_batch_and_as_one_of_n(pipe: Pipeline) -> None:
    four = make(pipe, num_images_per_prompt=4, seed=10)
    assert torch.equal(make(pipe, seed=12), four[2:3])
    both = make(pipe, ["a large yellow star above a small blue square", "a red circle"], 2, seed=12)
    assert torch.equal(both[2:], four[2:])
    assert not torch.equal(four[0], four[1])
    watched = make(pipe, seed=12, callback_on_step_end=lambda *_: None)
    assert torch.equal(watched, four[2:3])


def test_the_empty_prompt_is_encoded_once(tiny_model: Path, monkeypatch: Any) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    assert pipe.prior is not None
    encoded, prefixes = [], []
    text, prefix = pipe.clip.text, pipe.prior.prefix
    monkeypatch.setattr(pipe.clip, "text", lambda c: encoded.append(list(c)) or text(c))
    monkeypatch.setattr(pipe.prior, "prefix", lambda t: prefixes.append(len(t)) or prefix(t))
    assert torch.equal(make(pipe), make(pipe))
    assert sorted(encoded) == [[""], ["a red circle"], ["a red circle"]]
    assert len(prefixes) == 3


@pytest.mark.gpu
def test_steps_wait_for_no_gpu(tiny_model: Path) -> None:
    """From the second step of a stage on, nothing that the device computes is asked for."""
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cuda")
    steps = {"prior": 3, "decoder": 3, "super_res": 2}

    def watch(_: Pipeline, step: int, __: int, state: dict[str, Any]) -> None:
        last = step == steps[state["stage"]] - 1
        torch.cuda.set_sync_debug_mode("default" if last else "error")

    try:
        made = make(pipe, num_images_per_prompt=2, callback_on_step_end=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.isfinite().all()


def test_images_computed_together_differ_by_rounding_only(pipe: Pipeline) -> None:
    # A single step: these random weights amplify rounding from step to step, trained ones do not.
    one_step = {key: 1 for key in QUICK if key != "output_type"}
    prompts = ["a red circle", "a large yellow star above a small blue square at night"]
    alone = make(pipe, prompts, 2, **one_step)
    together = make(pipe, prompts, 2, batch_size=4, **one_step)
    assert (alone - together).abs().max() < 1e-3


def test_prompts_do_not_influence_each_other(pipe: Pipeline) -> None:
    short, long = "a star", "a large yellow star above a small blue square at night"
    both = make(pipe, [short, long])
    assert torch.equal(both, torch.cat([make(pipe, short), make(pipe, long)]))


def test_generators(pipe: Pipeline) -> None:
    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    each = make(pipe, num_images_per_prompt=2, generator=[seeded(5), seeded(6)])
    assert torch.equal(each, make(pipe, num_images_per_prompt=2, seed=5))
    one = make(pipe, num_images_per_prompt=2, generator=seeded(5))
    assert torch.equal(one, make(pipe, num_images_per_prompt=2, generator=seeded(5)))
    assert not torch.equal(one[0], one[1])
    made = pipe("x", 2, generator=seeded(5), **QUICK)
    assert made.seeds == [None, None]
    with pytest.raises(ValueError, match="1 generator was given for 2 images"):
        make(pipe, num_images_per_prompt=2, generator=[seeded(5)])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"prompt": "a blue square"},
        {"prior_guidance_scale": 1.0},
        {"decoder_guidance_scale": 1.0},
        {"decoder_guidance_scale": 0.0},
        {"prior_num_inference_steps": 4},
        {"decoder_num_inference_steps": 4},
        {"super_res_num_inference_steps": 3},
        {"sampler": "ddim"},
        {"sampler": "dpm++"},
        {"guidance_interval": (0.3, 5.0)},
        {"reuse": 2},
    ],
)
def test_everything_matters(pipe: Pipeline, change: dict[str, Any]) -> None:
    assert (make(pipe, **change) - make(pipe)).abs().mean() > 1e-3


def test_ddim_without_noise_and_with(pipe: Pipeline) -> None:
    still = make(pipe, sampler="ddim")
    assert torch.equal(still, make(pipe, sampler="ddim", eta=0.0))
    assert not torch.equal(still, make(pipe, sampler="ddim", eta=1.0))


def test_settings_and_names_are_the_same(pipe: Pipeline) -> None:
    settings = Settings("fast", size=16)
    by_settings = pipe("x", settings=settings, output_type="tensor").images
    assert torch.equal(by_settings, pipe("x", steps="fast", size=16, output_type="tensor").images)
    assert settings.changed() == {"steps": "fast", "size": 16}
    assert Settings().changed() == {}


# ---- what comes out -------------------------------------------------------------------------


def test_output_types(pipe: Pipeline) -> None:
    pt = make(pipe, num_images_per_prompt=2)
    assert pt.shape == (2, 3, 32, 32)
    assert pt.dtype == torch.float32
    assert pt.min() >= -1
    assert pt.max() <= 1
    array = make(pipe, num_images_per_prompt=2, output_type="np")
    assert array.shape == (2, 32, 32, 3)
    assert np.allclose(array, (pt.permute(0, 2, 3, 1).numpy() + 1) / 2)
    pil = make(pipe, num_images_per_prompt=2, output_type="pil")
    assert [image.size for image in pil] == [(32, 32)] * 2
    assert np.abs(np.asarray(pil[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    made = pipe(["x", "y"], 2, seed=3, **QUICK)
    assert made.prompts == ["x", "x", "y", "y"]
    assert made.seeds == [3, 4, 3, 4]


def test_sizes(pipe: Pipeline) -> None:
    assert pipe.sizes == [16, 32]
    assert make(pipe, size=16).shape[-1] == 16
    assert torch.equal(make(pipe, size=32), make(pipe))


def test_callback(pipe: Pipeline) -> None:
    calls = []

    def note(caller: Pipeline, step: int, timestep: int, state: dict[str, Any]) -> None:
        assert caller is pipe
        calls.append((state["stage"], step, state["images"], tuple(state["x0"].shape[1:])))

    make(pipe, num_images_per_prompt=3, batch_size=3, callback_on_step_end=note)
    expected = [("prior", i, 3, (64,)) for i in range(3)]
    expected += [("decoder", i, 3, (3, 16, 16)) for i in range(3)]
    expected += [("super_res", i, 3, (3, 32, 32)) for i in range(2)]
    assert calls == expected
    assert pipe.evaluations(Settings("default", 3, 3, 2)) == len(calls)


def test_the_prior_draws_two_and_keeps_the_better(pipe: Pipeline) -> None:
    drawn = []

    def note(caller: Pipeline, step: int, timestep: int, state: dict[str, Any]) -> None:
        if state["stage"] == "prior":
            drawn.append(len(state["x0"]))

    make(pipe, callback_on_step_end=note)
    assert set(drawn) == {2}


def test_bf16(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="bf16")
    assert pipe.dtype == torch.bfloat16
    images = make(pipe)
    assert images.dtype == torch.float32
    assert images.isfinite().all()


# ---- saving and opening ---------------------------------------------------------------------


def test_round_trip(pipe: Pipeline, tiny_model: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    files = sorted(path.relative_to(tiny_model) for path in tiny_model.rglob("*.safetensors"))
    saved = sorted((tmp_path / "saved").rglob("*.safetensors"))
    assert [path.relative_to(tmp_path / "saved") for path in saved] == files
    for file in files:
        before, after = load_file(tiny_model / file), load_file(tmp_path / "saved" / file)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    again = Pipeline.from_pretrained(tmp_path / "saved", dtype="fp32")
    assert again.defaults == pipe.defaults
    assert torch.equal(make(again), make(pipe))
    again.save_pretrained(tmp_path / "saved")  # over itself
    assert torch.equal(make(Pipeline.from_pretrained(tmp_path / "saved", dtype="fp32")), make(pipe))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_is_saved_over_another_model_is_what_is_opened(
    tiny_priors: Path, tmp_path: Path
) -> None:
    path = tmp_path / "saved"
    pipe = Pipeline.from_pretrained(tiny_priors, dtype="fp32")
    pipe.defaults["prior"] = "autoregressive"
    pipe.save_pretrained(path)
    ModelFolder(path).save("judge", ("unclip", "Judge"), {"config.json": {}})
    held_out = {"clip": 0.05, "decoder": 0.05}
    noted = {"_decoder": {"condition": "image"}, "_of_others": 1, "_held_out": held_out}
    ModelFolder(path).update_index(noted)
    assert Pipeline.from_pretrained(path, dtype="fp32").defaults["prior"] == "autoregressive"
    pipe.upsamplers = []
    pipe.priors.pop("autoregressive")
    pipe.save_pretrained(path)
    again = Pipeline.from_pretrained(path, dtype="fp32")
    assert (again.sizes, again.autoregressive_prior) == ([16], None)
    assert torch.equal(make(again), make(pipe, prior="diffusion"))
    assert sorted(p.name for p in path.iterdir() if "super" in p.name or "auto" in p.name) == []
    assert ModelFolder(path).has("judge")  # no part of what is opened
    assert not {"_of_others", "_held_out"} & ModelFolder(path).index().keys()


def test_a_copy_knows_what_was_held_out_and_tuned(tiny_copy: Path, tmp_path: Path) -> None:
    noted = {"_held_out": {"clip": 0.05}, "_tuned": {"says": {}}, "_trained_on": {}}
    ModelFolder(tiny_copy).update_index(noted)
    Pipeline.from_pretrained(tiny_copy, dtype="fp32").save_pretrained(tmp_path / "copy")
    assert ModelFolder(tmp_path / "copy").index().items() >= noted.items()


def test_the_models_own_guidance(tiny_copy: Path, pipe: Pipeline) -> None:
    defaults = {
        "prior_guidance_scale": 1.0,
        "decoder_guidance_scale": 2.0,
        "sampler": "ddim",
        "eta": 0.5,
    }
    ModelFolder(tiny_copy).update_index({"_defaults": defaults})
    changed = Pipeline.from_pretrained(tiny_copy, dtype="fp32")
    assert changed.defaults == defaults
    assert torch.equal(make(changed), make(pipe, **defaults))


def test_a_full_disk_leaves_nothing(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        pipe.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        pipe.save_pretrained(tmp_path / "file" / "model")
    with pytest.raises(ValueError, match="cannot write"):
        pipe.save_pretrained(tmp_path / "file")


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "there is no prompt"),
        ("x" * 100_000, "100,000 characters"),
        ("a \x00 zero", r"control character U\+0000"),
        ("a \x1b[31m colour", r"control character U\+001B"),
        ("half \ud83d", "not valid Unicode"),
        ([3], "must be a string, not int"),
    ],
)
def test_bad_prompts(pipe: Pipeline, prompt: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(pipe, prompt)


@pytest.mark.parametrize(
    "prompt", ["赤い丸", "красный круг", "دائرة حمراء", "🔴", "e\u0301", "two\nlines\tand a tab"]
)
def test_any_script_works(pipe: Pipeline, prompt: str) -> None:
    assert make(pipe, prompt).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_images_per_prompt": 0}, "0 images were asked for"),
        ({"num_images_per_prompt": -1}, "-1 images were asked for"),
        ({"num_images_per_prompt": 10_000}, "the limit is 1,000"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"output_type": "jpg"}, "'pil', 'np', 'pt'"),
        ({"size": 48}, "16, 32 pixels a side, not 48"),
        ({"steps": "slow"}, "unknown preset 'slow'"),
        ({"guidance_interval": (5.0, 0.3)}, "the lower one first"),
        (
            {"guidance_kind": "brances"},
            "unknown guidance kind 'brances'; did you mean 'branches'",
        ),
        ({"guidance_kind": "distilled"}, "this model has no decoder_distilled"),
        ({"reuse": 0}, "reuse is 0"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"decoder_num_inference_steps": 0}, "decoder_num_inference_steps is 0"),
        ({"super_res_num_inference_steps": -3}, "super_res_num_inference_steps is -3"),
        ({"decoder_num_inference_steps": 1001}, "1001 sampling steps"),
        ({"decoder_guidance_scale": -1.0}, "-1.0"),
        ({"prior_guidance_scale": float("nan")}, "nan"),
        ({"sampler": "ddim", "eta": 2.0}, "eta is 2.0"),
        ({"guidance": 3.0}, "unknown argument 'guidance'"),
    ],
)
def test_bad_arguments(pipe: Pipeline, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(pipe, **arguments)


def test_bad_folders_and_devices(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model folder"):
        Pipeline.from_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match="is not a model folder"):
        Pipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="abacus"):
        Pipeline.from_pretrained(tiny_model, device="abacus")
    with pytest.raises(ValueError, match="fp8"):
        Pipeline.from_pretrained(tiny_model, dtype="fp8")


def weights(folder: Path, component: str) -> Path:
    (file,) = (folder / component).glob("*.safetensors")
    return file


def test_damaged_and_foreign_weights(tiny_copy: Path) -> None:
    file = weights(tiny_copy, "decoder")
    whole = file.read_bytes()

    def refused(says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Pipeline.from_pretrained(tiny_copy)

    file.write_bytes(whole[: len(whole) // 2])
    refused("is not a whole safetensors file")
    file.write_bytes(b"this is no safetensors file")
    refused("is not a whole safetensors file")
    save_file({"foreign.weight": torch.zeros(2)}, file)
    refused("foreign.weight")
    file.write_bytes(whole)
    tensors = load_file(file)
    key = min(tensors)
    save_file({k: v for k, v in tensors.items() if k != key}, file)
    refused(f"lacks the tensor '{key}'")
    save_file(tensors | {key: torch.zeros(1, 2, 3, 4, 5)}, file)
    refused(r"\(1, 2, 3, 4, 5\)")
    file.unlink()
    file.with_suffix(".bin").write_bytes(b"pickle")
    refused("a pickle")
    file.with_suffix(".bin").unlink()
    refused("holds no safetensors weights")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_widths_that_do_not_fit(tiny_copy: Path) -> None:
    edit(tiny_copy / "prior" / "config.json", embedding_dim=48)
    with pytest.raises(ValueError, match=r"width 48.*width 64"):
        Pipeline.from_pretrained(tiny_copy)
    edit(tiny_copy / "prior" / "config.json", embedding_dim=64)
    edit(tiny_copy / "text_proj" / "config.json", clip_embeddings_dim=48)
    with pytest.raises(ValueError, match=r"width 48.*width 64"):
        Pipeline.from_pretrained(tiny_copy)


def test_unknown_keys_and_missing_parts(tiny_copy: Path) -> None:
    edit(tiny_copy / "decoder" / "config.json", wings=2)
    with pytest.raises(ValueError, match="wings"):
        Pipeline.from_pretrained(tiny_copy)
    edit(tiny_copy / "model_index.json", prior=[None, None])
    with pytest.raises(ValueError, match="has no prior"):
        Pipeline.from_pretrained(tiny_copy)
    edit(tiny_copy / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match="StableDiffusionPipeline"):
        Pipeline.from_pretrained(tiny_copy)
    (tiny_copy / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        Pipeline.from_pretrained(tiny_copy)

"""What diffusers' users call on a pipeline; the whole table runs in tests/docs."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from tests.acceleration.test_int8 import needs_int8
from unclip import Output, Pipeline
from unclip.acceleration.packing import PackedLinear
from unclip.checks import Notice
from unclip.pipeline.diffusers_api import NEEDLESS, NEVER_SET
from unclip.pipeline.translation import EXPLAINED

QUICK: dict[str, Any] = {
    "prior_num_inference_steps": 1, "decoder_num_inference_steps": 1,
    "super_res_num_inference_steps": 1, "output_type": "tensor",
}  # fmt: skip


def opened(folder: Path, **more: Any) -> Pipeline:
    return Pipeline.from_pretrained(folder, **{"dtype": "fp32", "device": "cpu", **more})


@pytest.fixture(scope="module")
def pipe(tiny_priors: Path) -> Pipeline:
    return opened(tiny_priors)


# ---- to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["diffusion", "autoregressive"])
def test_a_model_that_moved_is_one_that_was_opened_there(tiny_priors: Path, prior: str) -> None:
    there = opened(tiny_priors, torch_dtype=torch.bfloat16)
    moved = opened(tiny_priors)
    moved("a star", **QUICK)  # what was computed in the other precision is forgotten
    assert moved.to(torch.bfloat16) is moved
    assert moved.dtype == there.dtype == torch.bfloat16
    state = there.priors[prior].network.state_dict()
    for name, value in moved.priors[prior].network.state_dict().items():
        assert value.dtype == state[name].dtype, name
        assert torch.equal(value, state[name]), name
    asked = {"prior": prior, "negative_prompt": "a ring", **QUICK}
    assert torch.equal(moved("a star", **asked).images, there("a star", **asked).images)


def test_moving_to_where_it_is_changes_nothing(tiny_priors: Path) -> None:
    pipe = opened(tiny_priors)
    layers = [m for m in pipe.priors["diffusion"].network.modules() if isinstance(m, PackedLinear)]
    before = pipe("a star", **QUICK).images
    pipe.to("cpu", non_blocking=True).to("cpu", "float32").to(
        torch.float32, torch.device("cpu")
    ).to()
    assert torch.equal(pipe("a star", **QUICK).images, before)
    pipe.to("bf16").to("fp32")
    again = [m for m in pipe.priors["diffusion"].network.modules() if isinstance(m, PackedLinear)]
    assert len(again) == len(layers)


def test_where_a_model_cannot_go(pipe: Pipeline, tiny_priors: Path) -> None:
    for words, says in (
        (("cpu", "cuda"), "one device and one data type"),
        ((torch.float32, "bf16"), "one device and one data type"),
        (("nowhere",), "cannot compute on the device 'nowhere': there is no such device"),
        (("int8",), "int8|8-bit integers"),  # or this CPU has none
        ((3.5,), "device is 3.5"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe.to(*words)
    with pytest.raises(ValueError, match="precision 'bf17'"):
        pipe.to(dtype="bf17")
    with pytest.raises(ValueError, match="offloaded model cannot be moved"):
        opened(tiny_priors, offload=True).to("bf16")


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", "bf16", torch.bfloat16])
def test_names_of_data_types(tiny_priors: Path, name: Any) -> None:
    assert opened(tiny_priors, dtype=name).dtype == torch.bfloat16


# ---- progress -----------------------------------------------------------------------------------


def test_a_bar_counts_the_steps_of_all_images(tiny_priors: Path, capsys: Any) -> None:
    pipe = opened(tiny_priors)
    pipe("a star", **QUICK)
    assert "step" not in capsys.readouterr().err  # nobody watches
    pipe.set_progress_bar_config(disable=False, desc="stars")
    pipe("a star", 2, **QUICK)
    said = capsys.readouterr().err
    assert "stars" in said
    assert "6/6" in said
    pipe.set_progress_bar_config(disable=True)
    pipe("a star", **QUICK)
    assert not capsys.readouterr().err
    assert list(pipe.progress_bar([1, 2])) == [1, 2]


# ---- what it is made of -------------------------------------------------------------------------


def test_components_are_those_of_the_folder(pipe: Pipeline, tiny_priors: Path) -> None:
    index = json.loads((tiny_priors / "model_index.json").read_text())
    assert set(pipe.components) == {name for name in index if not name.startswith("_")}
    assert pipe.text_proj is pipe.components["text_proj"] is pipe.decoder.network.text_proj
    assert pipe.tokenizer is pipe.clip.tokenizer
    with pytest.raises(AttributeError, match=r"no attribute 'tokeniser'; did you mean 'tokenizer'"):
        pipe.tokeniser  # noqa: B018
    assert not hasattr(pipe, "vae")
    assert not hasattr(pipe, "_unknown")
    for name in (*NEVER_SET, "text_proj"):
        with pytest.raises(ValueError, match=f"{name} cannot be set"):
            setattr(pipe, name, None)


def test_a_few_lines_say_what_it_is(pipe: Pipeline) -> None:
    lines = repr(pipe).splitlines()
    assert "images for captions, 16 px → 32 px" in lines[0]
    assert any(line.split()[0] == "autoregressive_prior" for line in lines)
    assert "fp32 on cpu" in lines[-1]


def test_what_has_no_effect_says_so(pipe: Pipeline, tiny_priors: Path) -> None:
    for name in NEEDLESS:
        for verb in ("enable", "disable"):
            with pytest.warns(Notice, match=f"{verb}_{name} does nothing here: "):
                getattr(pipe, f"{verb}_{name}")()
    for pipeline in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(ValueError, match="offload=True"):
            pipeline()
    opened(tiny_priors, offload=True).enable_model_cpu_offload()


# ---- what a call takes and gives ----------------------------------------------------------------


def test_outputs(pipe: Pipeline) -> None:
    made = pipe("a star", **QUICK)
    assert made[0] is made["images"] is made.images
    (images,) = pipe("a star", return_dict=False, **QUICK)
    assert torch.equal(images, made.images)
    few = {"decoder_num_inference_steps": 1, "return_dict": False}
    assert not isinstance(pipe.decode_embeddings(torch.ones(1, 64), **few), Output)
    half = pipe("a star", **QUICK | {"output_type": "pt"})[0]
    assert torch.equal(half, (made.images + 1) / 2)
    assert torch.equal(pipe("a star", **QUICK | {"output_type": "latent"})[0], made.images)


def test_height_and_width(pipe: Pipeline) -> None:
    small = pipe("a star", height=16, width=16, **QUICK).images
    assert torch.equal(small, pipe("a star", size=16, **QUICK).images)
    assert torch.equal(small, pipe("a star", height=16, width=None, **QUICK).images)
    for asked in ({"height": 16, "width": 32}, {"height": 512, "width": 512}, {"width": 17},
                  {"height": 16, "size": 32}):  # fmt: skip
        with pytest.raises(ValueError, match="makes images of 16 × 16 or 32 × 32 pixels, not of"):
            pipe("a star", **asked, **QUICK)
    with pytest.raises(ValueError, match="height is 'x'"):
        pipe("a star", height="x")
    with pytest.raises(ValueError, match="height and width follow from the image"):
        pipe.upscale(torch.rand(3, 8, 8), height=16)


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_has_another_name_is_explained(pipe: Pipeline, name: str) -> None:
    for call in (pipe, pipe.vary):
        if name == "image" and call != pipe:
            continue
        with pytest.raises(ValueError, match=f"there is no {name} here: "):
            call(torch.rand(3, 8, 8) if call != pipe else "a star", **{name: None})


def test_latents_are_where_stages_begin(pipe: Pipeline) -> None:
    """Where no later noise is drawn, they decide the image, and each has its part in it."""
    starts = {
        "prior_latents": torch.randn(2, 64),
        "decoder_latents": torch.randn(2, 3, 16, 16),
        "super_res_latents": torch.randn(2, 3, 32, 32),
    }
    asked = {**QUICK, "sampler": "ddim", "eta": 0.0, "prior_num_candidates": 1}
    asked |= {"prior_num_inference_steps": 2, "super_res_num_inference_steps": 2}
    made = pipe("a star", 2, **starts, **asked).images
    assert torch.equal(pipe("a star", 2, seed=5, **starts, **asked).images, made)
    for name, start in starts.items():
        other = pipe("a star", 2, **starts | {name: start.flip(0)}, **asked).images
        assert not torch.equal(other, made), name
    alone = {name: start[1:] for name, start in starts.items()}
    assert torch.equal(pipe("a star", **alone, **asked).images, made[1:])
    for wrong, says in (
        ({"prior_latents": torch.randn(3, 64)}, r"\(3, 64\); this call begins with \(1, 64\)"),
        ({"prior_latents": torch.randn(1, 63)}, r"\(1, 63\); this call begins with \(1, 64\)"),
        ({"prior_latents": torch.zeros(5)}, r"\(5,\); this call begins with \(1, 64\)"),
        (
            {"prior_latents": torch.zeros(1, 64), "prior_num_candidates": 2},
            r"\(1, 64\); this call begins with \(2, 64\)",
        ),
        (
            {"prior_latents": torch.zeros(1, 64), "prior": "autoregressive"},
            r"\(1, 64\); this call begins with \(1, ",
        ),
        ({"decoder_latents": torch.randn(1, 3, 8, 8)}, r"begins with \(1, 3, 16, 16\)"),
        (
            {"super_res_latents": torch.zeros(1, 3, 32, 32).long()},
            "holds torch.int64 values; floats are needed",
        ),
        ({"decoder_latents": 3}, "decoder_latents must be a tensor, not int"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe("a star", **asked | wrong)
    with pytest.raises(ValueError, match="prior_latents has no use here"):
        pipe.decode_embeddings(torch.ones(1, 64), prior_latents=torch.randn(1, 64))


@pytest.mark.parametrize("kind", ["pil", "pt", "np", "tensor"])
def test_images_of_numbers_that_are_too_large_are_refused(pipe: Pipeline, kind: Any) -> None:
    with pytest.raises(ValueError, match="the images hold NaN"):
        pipe.decode_embeddings(torch.full((1, 64), 1e38), **QUICK | {"output_type": kind})


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_copies_and_pickles_draw_the_same(tiny_priors: Path, dtype: str) -> None:
    pipe = opened(tiny_priors, dtype=dtype)
    made = pipe("a star", **QUICK).images
    for again in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert torch.equal(again("a star", **QUICK).images, made)


@needs_int8
def test_int8_weights_are_not_copied(tiny_priors: Path) -> None:
    with pytest.raises(ValueError, match="int8 weights cannot be copied or pickled"):
        copy.deepcopy(opened(tiny_priors, dtype="int8"))


def test_a_stage_is_replaced_by_a_stage_alone(tiny_priors: Path) -> None:
    pipe = opened(tiny_priors)
    for name, says in (
        ("clip", "clip must be a FrozenCLIP, not NoneType"),
        ("decoder", "decoder must be a DecoderStage, not NoneType"),
        ("priors", "priors must be a dict, not NoneType"),
        ("upsamplers", "upsamplers must be a list, not NoneType"),
    ):
        with pytest.raises(ValueError, match=says):
            setattr(pipe, name, None)
    with pytest.raises(ValueError, match="an upsampler must be an UpsamplerStage"):
        pipe.upsamplers = [pipe.decoder]  # type: ignore[list-item]
    pipe.decoder, pipe.upsamplers = pipe.decoder, []
    assert pipe("a star", **QUICK).images.shape[-1] == 16


def test_callbacks_ask_for_what_there_is(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="unknown tensor of callback_on_step_end 'prompt_embeds'"):
        pipe("a star", callback_on_step_end_tensor_inputs=["prompt_embeds"], **QUICK)


@pytest.mark.parametrize("prompt", ["", "  ", ["", "a star"]])
def test_without_a_caption(pipe: Pipeline, prompt: Any) -> None:
    many = 1 if isinstance(prompt, str) else len(prompt)
    assert len(pipe(prompt, **QUICK).images) == many


# ---- opening and the Hub ------------------------------------------------------------------------


def test_what_from_pretrained_takes(tiny_priors: Path, tmp_path: Path) -> None:
    more = {"token": "x", "cache_dir": tmp_path, "local_files_only": True, "safety_checker": None}
    opened(tiny_priors, use_safetensors=True, low_cpu_mem_usage=True, **more)
    for wrong, says in (
        ({"use_safetensors": False}, "pickles can run code"),
        ({"device_map": "balanced"}, "offload=True"),
        ({"wings": 2}, "no argument 'wings'"),
        ({"token": 3}, "token must be a string"),
        ({"local_files_only": "yes"}, "local_files_only is 'yes'"),
    ):
        with pytest.raises(ValueError, match=says):
            opened(tiny_priors, **wrong)


def test_the_hub_is_asked_as_the_caller_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **more: Any) -> str:
        asked.update(more, name=name)
        raise OSError("no more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="no more"):
        Pipeline.from_pretrained("hf:a/b", cache_dir="here", token="t", local_files_only=True)
    assert (asked["name"], asked["cache_dir"], asked["token"]) == ("a/b", "here", "t")
    assert asked["local_files_only"] is True


def test_push_to_hub(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    class Made:
        repo_id = "me/model"

    def upload_folder(repo_id: str, folder_path: Path, **more: Any) -> str:
        asked.append((repo_id, more["token"], more["commit_message"], more["create_pr"]))
        assert (Path(folder_path) / "model_index.json").is_file()
        return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **more: Made())
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    assert pipe.push_to_hub("me/model", "first", token="t") == "https://hub/me/model/commit/1"
    pipe.save_pretrained(tmp_path / "model", push_to_hub=True, create_pr=True)
    assert asked == [("me/model", "t", "first", False),
                     ("me/model", None, "Upload a model of unclip", True)]  # fmt: skip

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden\nand more")

    monkeypatch.setattr(huggingface_hub, "create_repo", refuses)
    with pytest.raises(
        ValueError, match=r"me/model could not be uploaded to the Hub: 403 Forbidden$"
    ):
        pipe.push_to_hub("me/model")
    for wrong, says in (
        (lambda: pipe.push_to_hub("a b"), "is no repository on the Hub"),
        (lambda: pipe.save_pretrained(tmp_path / "m", safe_serialization=False), "pickles"),
        (lambda: pipe.save_pretrained(tmp_path / "m", token="x"), "for push_to_hub=True"),
        (lambda: pipe.save_pretrained(tmp_path / "m", push_to_hub=True, wings=1), "wings"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()


def test_seed_and_generator_are_not_both_given(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="seed and generator both say what noise is drawn"):
        pipe("x", seed=1, generator=torch.Generator().manual_seed(1), **QUICK)

"""Compiled steps: few graphs whatever is asked for, the same images, and what is refused."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unclip import Pipeline
from unclip.device import precision
from unclip.storage.folder import ModelFolder

STEPS = {
    "prior_num_inference_steps": 2,
    "decoder_num_inference_steps": 2,
    "super_res_num_inference_steps": 2,
    "output_type": "tensor",
}
PROMPTS = ["a star", "a red circle", "a large yellow star above a small blue square at night"]


def make(pipe: Pipeline, prompt: str, count: int, **more: Any) -> Tensor:
    images: Tensor = pipe(prompt, count, batch_size=count, **{**STEPS, **more}).images
    return images


@pytest.mark.slow
def test_three_lengths_and_three_batches_are_few_graphs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append("conv2d" in graph.code)  # of a U-Net, or of the prior
        return graph.forward

    plain = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu", compile=True)
    graphs.clear()
    for prompt, count in zip(PROMPTS, (1, 3, 2), strict=True):
        difference = make(pipe, prompt, count, size=16) - make(plain, prompt, count, size=16)
        assert difference.abs().max() < 1e-3
    assert sorted(graphs) == [False, False, True, True]  # the first number of images, and any
    # No prompt, number, step count or guidance scale is compiled for from now on.
    with torch.compiler.set_stance("fail_on_recompile"):
        for prompt, count in ((PROMPTS[2], 1), (PROMPTS[0], 4)):
            make(
                pipe, prompt, count, size=16, decoder_num_inference_steps=3, prior_guidance_scale=2
            )
    torch._dynamo.reset()


@pytest.mark.gpu
def test_compiled_images_are_the_same_and_steps_wait_for_no_gpu(tiny_model: Path) -> None:
    plain, pipe = (
        Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cuda", compile=compile)
        for compile in (False, True)
    )
    for prompt, count in zip(PROMPTS, (1, 3, 2), strict=True):
        # On average: convolutions round to TF32, and these weights amplify that.
        assert (make(pipe, prompt, count) - make(plain, prompt, count)).abs().mean() < 2e-2

    def watch(_: Pipeline, step: int, __: int, ___: dict[str, Any]) -> None:
        torch.cuda.set_sync_debug_mode("error" if step == 0 else "default")  # of two

    try:
        assert make(pipe, "a star", 2, callback_on_step_end=watch).isfinite().all()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_captions_are_of_one_length(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu", compile=True)
    lengths = {pipe.clip.text([prompt]).hidden.shape[1] for prompt in ["", *PROMPTS]}
    assert lengths == {pipe.clip.tokenizer.context_length}


@pytest.mark.parametrize(
    ("name", "other"), [("offload", {"offload": True}), ("int8", {"dtype": "int8"})]
)
def test_what_does_not_go_together(
    name: str, other: dict[str, Any], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "check_int8", lambda device: None)  # on any CPU
    with pytest.raises(ValueError, match=f"{name} and compile do not go together"):
        Pipeline.from_pretrained(tiny_model, device="cpu", compile=True, **other)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"_defaults": 3}, "_defaults is 3; it must be a table of keys"),
        ({"_defaults": {"sampler": ["ddim"]}}, "sampler is ['ddim']; it must be of type str"),
        ({"_defaults": {"sampler": "euler"}}, "_defaults: unknown sampler 'euler'"),
        ({"_defaults": {"eta": 2}}, "_defaults: eta is 2"),
        ({"_defaults": {"prior": "ar"}}, "_defaults: unknown prior 'ar'"),
        ({"_defaults": {"steps": 3}}, "unknown key 'steps'"),
        ({"_class_name": ["UnCLIPPipeline"]}, "what can be opened is a folder of the"),
    ],
)
def test_notes_that_make_no_sense(entries: dict[str, Any], says: str, tiny_copy: Path) -> None:
    ModelFolder(tiny_copy).update_index(entries)
    with pytest.raises(ValueError, match=re.escape(says)):
        Pipeline.from_pretrained(tiny_copy, dtype="fp32", device="cpu")


def test_no_compiler_is_said_at_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Callable[..., Any]:
        def call(*_: Any) -> None:
            raise RuntimeError("No working C++ compiler found.\nSet CXX")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match=r"cannot compile .* \(No working C\+\+ compiler found\)"):
        Pipeline.from_pretrained(tiny_model, device="cpu", compile=True)


def test_a_folder_has_no_revisions(tiny_model: Path, tmp_path: Path) -> None:
    for folder in (tiny_model, None, "bundled"):
        with pytest.raises(ValueError, match=r"revision is 'v2', but .* is a folder: only models"):
            Pipeline.from_pretrained(folder, revision="v2")
    commit = "0123456789" * 4
    cached = tmp_path / "snapshots" / commit
    cached.parent.mkdir()
    cached.symlink_to(tiny_model)
    assert Pipeline.from_pretrained(cached, revision=commit).revision == commit

"""`callback_on_step_end` as diffusers has it: what it returns, and how it ends a call."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unclip import Pipeline
from unclip.pipeline.hooks import Callback

QUICK: dict[str, Any] = {
    "prior_num_inference_steps": 3,
    "decoder_num_inference_steps": 3,
    "super_res_num_inference_steps": 2,
    "output_type": "tensor",
}
PICTURE = Image.new("RGB", (16, 16), (200, 0, 0))


@pytest.fixture(scope="module")
def pipe(tiny_priors: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_priors, dtype="fp32", device="cpu")


def stops(stage: str, step: int, seen: list[tuple[str, int]]) -> Callback:
    """A callback that interrupts after one step of a stage."""

    def callback(pipe: Pipeline, i: int, t: int, state: dict[str, Any]) -> None:
        seen.append((state["stage"], i))
        if (state["stage"], i) == (stage, step):
            pipe._interrupt = True

    return callback


@pytest.mark.parametrize("name", ["latents", "x"])
@pytest.mark.parametrize("stage", ["prior", "decoder", "super_res"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_what_is_returned_is_gone_on_with(
    pipe: Pipeline, name: str, stage: str, sampler: str
) -> None:
    def none_of(value: float) -> Callback:
        def callback(_: Pipeline, __: int, ___: int, state: dict[str, Any]) -> Any:
            assert state["x"] is state["latents"]
            if state["stage"] == stage:
                state[name] = torch.full_like(state["x"], value)  # as diffusers' callbacks do
            return state

        return callback

    asked = {**QUICK, "sampler": sampler}
    plain, zeros, ones = (
        pipe("a star", callback_on_step_end=callback, **asked).images
        for callback in (lambda *_: {"other": 3}, none_of(0.0), none_of(1.0))
    )
    assert torch.equal(plain, pipe("a star", **asked).images)
    assert not torch.equal(zeros, plain)
    assert not torch.equal(zeros, ones)
    if stage == "super_res":
        assert torch.equal(ones, torch.ones_like(ones))  # the last state is the image


@pytest.mark.parametrize("wrong", [3, torch.zeros(2), torch.zeros(2, 64, dtype=torch.long), None])
def test_what_is_returned_must_fit(pipe: Pipeline, wrong: Any) -> None:
    with pytest.raises(ValueError, match="callback_on_step_end returned 'latents'"):
        pipe("a star", callback_on_step_end=lambda *_: {"latents": wrong}, **QUICK)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda x: x.to("meta")])
def test_what_is_returned_has_its_values_in_memory(pipe: Pipeline, change: Any) -> None:
    def callback(*step: Any) -> dict[str, Any]:
        return {"latents": change(step[-1]["latents"])}

    says = "the 'latents' that callback_on_step_end returned is a tensor without plain values"
    with pytest.raises(ValueError, match=says):
        pipe("a star", callback_on_step_end=callback, **QUICK)


def test_the_state_of_the_autoregressive_prior_is_not_to_be_changed(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="a callback cannot change it"):
        pipe(
            "a star", prior="autoregressive", **QUICK,
            callback_on_step_end=lambda *step: {"x": step[-1]["x"] * 0},
        )  # fmt: skip


@pytest.mark.parametrize("prior", ["diffusion", "autoregressive"])
def test_an_interrupt_in_the_prior_draws_nothing(pipe: Pipeline, prior: str) -> None:
    seen: list[tuple[str, int]] = []
    made = pipe("a star", callback_on_step_end=stops("prior", 1, seen), prior=prior, **QUICK)
    assert seen == [("prior", 0), ("prior", 1)]
    assert pipe.interrupt
    assert torch.equal(made.images, torch.zeros(1, 3, 32, 32))
    assert pipe("a star", **QUICK).images.any()  # the next call is none of that
    assert not pipe.interrupt


def test_an_interrupt_in_the_decoder_gives_what_it_knows(pipe: Pipeline) -> None:
    known: list[torch.Tensor] = []
    stop = stops("decoder", 1, [])

    def callback(pipe: Pipeline, i: int, t: int, state: dict[str, Any]) -> None:
        known.append(state["x0"])
        stop(pipe, i, t, state)

    small = pipe("a star", callback_on_step_end=callback, size=16, **QUICK).images
    assert torch.equal(small, known[-1].clamp(-1, 1))
    seen: list[tuple[str, int]] = []
    large = pipe("a star", callback_on_step_end=stops("decoder", 1, seen), **QUICK).images
    assert seen[-1] == ("decoder", 1)
    torch.testing.assert_close(large.mean(), small.mean(), atol=0.05, rtol=0)


def test_images_that_were_not_begun_are_left_out(pipe: Pipeline) -> None:
    seen: list[tuple[str, int]] = []
    made = pipe(["a star", "a ring"], 2, callback_on_step_end=stops("super_res", 0, seen), **QUICK)
    assert (len(made.images), made.prompts, made.seeds) == (1, ["a star"], [0])
    assert seen[-1] == ("super_res", 0)


def test_an_interrupt_ends_every_kind_of_call(pipe: Pipeline) -> None:
    decoding = {key: value for key, value in QUICK.items() if "prior" not in key}
    seen: list[tuple[str, int]] = []
    latents = pipe.invert([PICTURE] * 2, 4, callback_on_step_end=stops("inversion", 3, seen))
    assert seen == [("inversion", 3)]
    assert len(latents) == 1
    for call in (
        lambda **more: pipe.vary(PICTURE, **more, **decoding),
        lambda **more: pipe.edit(PICTURE, "a star", **more, **decoding),
        lambda **more: pipe.inpaint(PICTURE, "a star", boxes=[(2, 2, 9, 9)], **more, **QUICK),
    ):
        seen.clear()
        assert len(call(callback_on_step_end=stops("decoder", 0, seen)).images) == 1
        assert seen[-1] == ("decoder", 0)
    seen.clear()
    upscaled = pipe.upscale(
        PICTURE, callback_on_step_end=stops("super_res", 0, seen), output_type="tensor",
        super_res_num_inference_steps=3,
    )  # fmt: skip
    assert seen == [("super_res", 0)]
    assert upscaled.images.shape == (1, 3, 32, 32)

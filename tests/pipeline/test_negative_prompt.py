"""Negative prompts: the caption that guidance leads away from, in every stage that is guided."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.pipeline.test_pictures import PICTURE
from unclip import Pipeline
from unclip.checks import Notice
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info

QUICK: dict[str, Any] = {
    "prior_num_inference_steps": 1, "decoder_num_inference_steps": 1, "size": 16,
    "output_type": "tensor", "prior_guidance_scale": 3.0, "decoder_guidance_scale": 3.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe(tiny_priors: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_priors, dtype="fp32", device="cpu")


def make(pipe: Pipeline, prompt: Any = "a red circle", *rest: Any, **more: Any) -> torch.Tensor:
    made: torch.Tensor = pipe(prompt, *rest, **{**QUICK, **more}).images
    return made


@pytest.mark.parametrize("prior", ["diffusion", "autoregressive"])
@pytest.mark.parametrize("guided", ["prior", "decoder"])
def test_it_acts_where_there_is_guidance(pipe: Pipeline, prior: str, guided: str) -> None:
    other = {"prior": "decoder", "decoder": "prior"}[guided]
    asked = {"prior": prior, f"{guided}_guidance_scale": 50.0, f"{other}_guidance_scale": 1.0}
    plain = make(pipe, **asked)
    assert torch.equal(make(pipe, negative_prompt="", **asked), plain)
    with pytest.warns(Notice, match=f"the {other}'s guidance scale is 1"):
        negative = make(pipe, negative_prompt="a blue square in a room", **asked)
    assert not torch.equal(negative, plain)


@pytest.mark.parametrize("prior", ["diffusion", "autoregressive"])
def test_one_for_all_or_one_for_each(pipe: Pipeline, prior: str) -> None:
    prompts, negatives = ["a red circle", "a star"], ["a blue square", ""]
    more = {"prior": prior, "prior_num_candidates": 2}
    both = make(pipe, prompts, 2, negative_prompt=negatives, **more)
    together = make(pipe, prompts, 2, negative_prompt=negatives, batch_size=4, **more)
    torch.testing.assert_close(together, both, atol=1e-4, rtol=0)
    for k, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = make(pipe, prompt, 2, negative_prompt=negative, **more)
        assert torch.equal(both[2 * k : 2 * k + 2], alone)


def test_the_same_caption_in_both_branches_is_no_guidance(pipe: Pipeline) -> None:
    """uncond + s (cond - uncond), with cond = uncond in the prior."""
    with pytest.warns(Notice, match="the decoder's"):
        same = make(pipe, negative_prompt="a red circle", decoder_guidance_scale=1.0)
    plain = make(pipe, prior_guidance_scale=1.0, decoder_guidance_scale=1.0)
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=0)


def test_of_variations(pipe: Pipeline) -> None:
    few = {key: value for key, value in QUICK.items() if "prior" not in key}
    plain = pipe.vary(PICTURE, **few).images
    assert not torch.equal(pipe.vary(PICTURE, negative_prompt="a star", **few).images, plain)


def test_refused(pipe: Pipeline) -> None:
    for more, says in (
        ({"negative_prompt": ["a", "b", "c"]}, "3 negative prompts were given for 1 prompt"),
        ({"negative_prompt": 3}, "negative_prompt is 3"),
        ({"negative_prompt": "a \x07 bell"}, r"control character U\+0007"),
        ({"negative_prompt": "a star", "guidance_kind": "distilled"}, "distilled"),
        ({"negative_prompt_embeds": None}, "captions are given as text"),
    ):
        with pytest.raises(ValueError, match=says):
            make(pipe, **more)


def test_the_note_makes_the_image_again(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["generate", "a star", "--negative-prompt=-blue, square-", "--steps", "fast"]
    words += ["--guidance", "2", "--size", "16", "--model", str(tiny_model), "--precision", "fp32"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*words, "-o", str(tmp_path / "x.png")]) == 0
        assert read_info(tmp_path / "x.png")["settings"]["negative_prompt"] == "-blue, square-"
        assert main(["info", str(tmp_path / "x.png")]) == 0
        import shlex

        command = shlex.split(capsys.readouterr().out.splitlines()[-1])
        assert main([*command[1:], "-o", str(tmp_path / "y.png")]) == 0
        assert main([*words[:2], *words[3:], "-o", str(tmp_path / "z.png")]) == 0
    first, again, without = (Image.open(tmp_path / f"{n}.png").tobytes() for n in "xyz")
    assert first == again
    assert first != without


def test_it_is_called_by_its_name(pipe: Pipeline) -> None:
    for wrong, says in (
        ("a\0", "the negative prompt holds the control character"),
        (["a", "x" * 10_001], "the negative prompt has 10,001 characters"),
        ([], "negative_prompt has 0 entries; it must have 1 to 1000"),
        (3, "negative_prompt is 3; it must be of type str"),
    ):
        with pytest.raises(ValueError, match=says):
            make(pipe, ["a", "b"], negative_prompt=wrong)

"""Any image enlarged: sizes and aspects, which upsampler, what is refused; the second upsampler."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.interfaces.cli.test_cli import Capture, refused
from tests.tiny import _awaken
from unclip import Pipeline
from unclip.interfaces.cli import main
from unclip.interfaces.cli.reproduction import command_for
from unclip.outputs.images import read_info
from unclip.pipeline import upscaling
from unclip.stages.upsampler import SECOND, UpsamplerSettings, UpsamplerStage
from unclip.storage.folder import ModelFolder

QUICK: dict[str, Any] = {"super_res_num_inference_steps": 2, "output_type": "tensor"}


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a second upsampler: 16 → 32 → 64 px."""
    path = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("second") / "model"))
    torch.manual_seed(1)
    settings = UpsamplerSettings(
        2, (16, 32), groups=8, prediction_type="sample", beta_schedule="linear"
    )
    stage = UpsamplerStage.build(settings, 64, SECOND)
    _awaken(stage.network)
    stage.save(ModelFolder(path))
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Pipeline:
    return Pipeline.from_pretrained(folder, dtype="fp32", device="cpu")


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_the_second_upsampler_is_one_of_the_sizes(pipe: Pipeline, tmp_path: Path) -> None:
    assert pipe.sizes == [16, 32, 64]
    few = {"prior_num_inference_steps": 2, "decoder_num_inference_steps": 2, **QUICK}
    assert pipe("a star", **few).images.shape[-1] == 64
    assert pipe("a star", size=32, **few).images.shape[-1] == 32
    pipe.save_pretrained(tmp_path / "again")
    again = Pipeline.from_pretrained(tmp_path / "again", dtype="fp32", device="cpu")
    assert torch.equal(again("a star", **few).images, pipe("a star", **few).images)
    assert [stage.process.config.beta_schedule for stage in again.upsamplers] == [
        "squaredcos_cap_v2",
        "linear",
    ]
    assert pipe.sampling("prior", pipe_settings("paper")).steps == 64
    assert pipe.sampling("decoder", pipe_settings("paper")).steps == 250
    assert pipe.sampling("super_res", pipe_settings("paper")).steps == 27
    assert pipe.sampling(SECOND, pipe_settings("paper")).steps == 15


def pipe_settings(steps: str) -> Any:
    from unclip import Settings

    return Settings(steps)


@pytest.mark.parametrize(
    ("size", "to", "expected"),
    [
        ((16, 16), None, (32, 32)),
        ((13, 7), None, (26, 14)),  # any size and aspect
        ((1, 1), None, (2, 2)),
        ((5, 90), None, (10, 180)),
        ((16, 8), 64, (64, 32)),  # both upsamplers
        ((16, 8), 50, (50, 25)),  # reduced from the next size
        ((40, 30), None, (80, 60)),
    ],
)
def test_sizes(
    pipe: Pipeline, size: tuple[int, int], to: int | None, expected: tuple[int, int]
) -> None:
    made = pipe.upscale(picture(*size), size=to, **QUICK).images
    assert made.shape == (1, 3, expected[1], expected[0])
    assert made.abs().max() <= 1


def test_the_nearest_upsampler_does_it(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    sample = UpsamplerStage.sample

    def spy(stage: UpsamplerStage, *args: Any, **more: Any) -> torch.Tensor:
        used.append(stage.component)
        return sample(stage, *args, **more)

    monkeypatch.setattr(UpsamplerStage, "sample", spy)
    for longer in (4, 22, 23, 100):
        pipe.upscale(picture(longer, 3), **QUICK)
    assert used == ["super_res_first", "super_res_first", SECOND, SECOND]


def test_it_is_the_cascades_own_step(pipe: Pipeline) -> None:
    """An image of the decoder's size gets what `generate` would have made of it."""
    image = picture(16, 16)
    from unclip.data.transforms import to_tensor
    from unclip.diffusion.samplers import noise_from

    made = pipe.upscale(image, seed=3, **QUICK).images
    expected = pipe.upsamplers[0].sample(
        to_tensor(image)[None],
        pipe.sampling("super_res", pipe_settings("default").with_values(
            {"super_res_num_inference_steps": 2})),
        noise_from([torch.Generator().manual_seed(3)]),
    )  # fmt: skip
    assert torch.equal(made, expected.clamp(-1, 1))
    assert not torch.equal(pipe.upscale(image, seed=4, **QUICK).images, made)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "I;16", "1"])
def test_modes(pipe: Pipeline, mode: str) -> None:
    image = picture(6, 6, "L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    assert pipe.upscale(image, **{**QUICK, "output_type": "pil"}).images[0].size == (12, 12)


def test_what_cannot_be(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="16 × 8 pixels already; a size of 16 does not enlarge"):
        pipe.upscale(picture(16, 8), size=16)
    with pytest.raises(ValueError, match="16 × 8 pixels to 64 × 32 at most, not to 65"):
        pipe.upscale(picture(16, 8), size=65)
    with pytest.raises(ValueError, match="does not exist"):
        pipe.upscale("x.png")
    monkeypatch.setattr(upscaling, "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"20 × 20 pixels made 2 times larger .* smaller image"):
        pipe.upscale(picture(20, 20))
    bare = Pipeline(pipe.clip, pipe.prior, pipe.decoder)
    with pytest.raises(ValueError, match="has no upsampler"):
        bare.upscale(picture(4, 4))


def test_sizes_that_do_not_grow_are_refused(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "model"))
    settings = UpsamplerSettings(2, (16, 32), groups=8)
    UpsamplerStage.build(settings, 32, SECOND).save(ModelFolder(path))
    with pytest.raises(ValueError, match="16, 32, 32 pixels, which do not grow"):
        Pipeline.from_pretrained(path)


# ---- the command ------------------------------------------------------------------------------


def command(*words: object, model: Path) -> list[str]:
    few = ["--model", str(model), "--precision", "fp32", "--super-res-steps", "1"]
    return ["upscale", *map(str, words), *few]


def test_the_command(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    source, out = tmp_path / "my photo.png", tmp_path / "o" / "large.png"
    picture(10, 6).save(source)
    assert main(command(source, "-o", out, "--seed", "5", model=folder)) == 0
    assert Image.open(out).size == (20, 12)
    assert capsys.readouterr().out.startswith("10×6 to 20×12 pixels in ")
    notes = read_info(out)
    assert notes["seed"] == 5
    again = command_for(notes)
    assert again.startswith(f"unclip upscale '{source}' -o {out} --seed 5 --model {folder}")
    assert main(["info", str(out)]) == 0
    assert again in capsys.readouterr().out
    assert main(command(source, "-o", tmp_path / "f", "--size", "30", model=folder)) == 0
    assert Image.open(tmp_path / "f" / "my photo-30.png").size == (30, 18)


def test_bad_files(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.png"
    text, cut, animated = (tmp_path / name for name in ("a.txt", "cut.png", "moves.gif"))
    text.write_text("no image")
    picture(64, 64).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    frames = [picture(8, 8), picture(8, 8).rotate(90)]
    frames[0].save(animated, save_all=True, append_images=frames[1:])
    for file, words in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "not an image in a known format"),
        (cut, "damaged or cut short"),
    ):
        assert words in refused(command(file, "-o", out, model=folder), capsys)
    assert not out.exists()
    assert main(command(animated, "-o", out, model=folder)) == 0  # its first frame
    assert Image.open(out).size == (16, 16)
    said = refused(command(animated, "-o", tmp_path / "x.jpg", model=folder), capsys)
    assert "written as PNG only" in said

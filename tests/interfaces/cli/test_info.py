"""`unclip info`: of images, with the command that makes them again, and of model folders."""

import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.interfaces.cli.test_cli import Capture, refused
from tests.interfaces.cli.test_generate import FAST, pixels
from unclip.checks import many
from unclip.data.held_out import note
from unclip.interfaces.cli import main
from unclip.outputs.images import save_png
from unclip.storage.folder import ModelFolder


def command_of(image: Path, capsys: Capture) -> list[str]:
    capsys.readouterr()
    assert main(["info", str(image)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    program, *words = shlex.split(line)
    assert program == "unclip"
    return words


@pytest.mark.parametrize(
    "words",
    [
        ["a red circle above a blue square", "-n", "3", "--seed", "4", "--precision", "fp32"],
        ['it\'s "quoted" $HOME', "--steps", "fast", "--guidance", "1.5", "--precision", "bf16"],
        ["--sampler", "ddim", "--eta", "0.5", "--size", "16", "--", "-dashed"],
        ["a star", "--guidance-interval", "0", "inf", "--reuse", "2", "--precision", "fp32"],
        ["a star", "--guidance-kind", "branches", "--steps", "fast", "--precision", "fp32"],
        ["a star", "--offload", "--precision", "fp32"],  # its sums come in another order
    ],
)
def test_the_command_makes_the_same_image(
    words: list[str], tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["--model", str(tiny_model), "-o", str(first), *FAST, *words]
    assert main(["generate", *words]) == 0
    image = sorted(first.iterdir())[-1]
    again = command_of(image, capsys)
    assert ("--offload" in again) == ("--offload" in words)
    assert main([again[0], "--output", str(second), *again[1:]]) == 0
    (made,) = second.iterdir()
    assert made.name == image.name
    assert (pixels(made) == pixels(image)).all()
    assert command_of(made, capsys) == again


def test_the_command_makes_the_same_sheet(
    tiny_model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    words = ["a star", "-x", "-n", "2", "--model", str(tiny_model), "-o", "sub/sheet.png", *FAST]
    words = [*words[2:], "--", *words[:2]]
    assert main(["generate", *words]) == 0
    assert main(command_of(tmp_path / "sub" / "sheet.png", capsys)) == 0
    assert (pixels(tmp_path / "sheet.png") == pixels(tmp_path / "sub" / "sheet.png")).all()


def test_files_that_say_nothing(tmp_path: Path, capsys: Capture) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    assert "is not a PNG image" in refused(["info", str(text)], capsys)
    assert "there is no file or folder" in refused(["info", str(tmp_path / "no")], capsys)
    assert "is not a model folder" in refused(["info", str(tmp_path)], capsys)


def test_files_that_are_no_images(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    def told(file: str | Path) -> str:
        capsys.readouterr()
        assert main(["info", str(file)]) == 0
        return capsys.readouterr().out

    picture = str(tmp_path / "p.png")
    Image.new("RGB", (16, 16)).save(picture)
    latents, embedded = str(tmp_path / "l.safetensors"), str(tmp_path / "e.safetensors")
    model = ["--model", str(tiny_model)]
    assert main(["invert", picture, *model, "--steps", "2", "-o", latents]) == 0
    assert told(latents).startswith("latents   ")
    assert "1 image of 16 px" in told(latents)
    assert main(["embed", picture, "a star", *model, "-o", embedded]) == 0
    assert "2 of width" in told(embedded)
    assert main(["embed", picture, *model, "-o", str(tmp_path / "e.npy")]) == 0
    assert "embeddings  1 of width" in told(tmp_path / "e.npy")
    (weights,) = (tiny_model / "decoder").glob("*.safetensors")
    assert f"decoder of the model {tiny_model}" in told(weights)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    assert "not a whole .npy file" in refused(["info", str(tmp_path / "bad.npy")], capsys)


def test_what_machine_made_it(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    image = tmp_path / "image.png"
    words = ["generate", "a star", "--model", str(tiny_model), "-o", str(image), *FAST]
    assert main([*words, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["info", str(image)]) == 0
    kernels = torch.backends.cpu.get_cpu_capability()
    threads = many(torch.get_num_threads(), "threads")
    assert f"machine   cpu ({kernels}, {threads})\n" in capsys.readouterr().out


def test_a_model(tiny_model: Path, capsys: Capture) -> None:
    assert main(["info", str(tiny_model)]) == 0
    said = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in said.splitlines() if line)
    assert rows["complete"] == "yes"
    assert rows["decoder"].startswith("UNet2DConditionModel, ")
    assert "32 px" in said


def test_a_model_that_lacks_a_part(tiny_copy: Path, capsys: Capture) -> None:
    index = json.loads((tiny_copy / "model_index.json").read_text())
    del index["prior"]
    (tiny_copy / "model_index.json").write_text(json.dumps(index))
    assert main(["info", str(tiny_copy)]) == 0
    assert "no: prior missing" in capsys.readouterr().out


def test_a_models_own_numbers_of_steps(tiny_copy: Path, capsys: Capture) -> None:
    index = json.loads((tiny_copy / "model_index.json").read_text())
    steps = {"decoder_num_inference_steps": 15, "super_res_num_inference_steps": 1}
    (tiny_copy / "model_index.json").write_text(json.dumps({**index, "_defaults": steps}))
    assert main(["info", str(tiny_copy)]) == 0
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    for component, said in (
        ("prior", "25 steps,"),
        ("decoder", "15 steps"),
        ("super_res_first", "1 step"),
    ):
        (row,) = (
            value for key, value in told.items() if key.startswith("sampling") and component in key
        )
        assert f", {said}" in row


def test_facts_of_a_model(tiny_copy: Path, capsys: Capture) -> None:
    (tiny_copy / "README.md").write_text("---\ntags: [x]\nlicense: cc-by-4.0\n---\n\n# Mine\n")
    (weights,) = (tiny_copy / "prior").glob("*.safetensors")
    half = weights.with_name("diffusion_pytorch_model.fp16.safetensors")
    save_file({key: value.half() for key, value in load_file(weights).items()}, half)
    assert main(["info", str(tiny_copy)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["licence"] == "cc-by-4.0"
    count = sum(value.numel() for value in load_file(half).values())
    assert rows["prior"] == (
        f"PriorTransformer, {count:,} parameters in F32; {count:,} parameters in F16 (variant fp16)"
    )


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("UnCLIPImageVariationPipeline", "yes"),
        ("StableUnCLIPPipeline", "unclip opens UnCLIPPipeline and UnCLIPImageVariationPipeline"),
        (["a"], "unclip opens UnCLIPPipeline and UnCLIPImageVariationPipeline"),
    ],
)
def test_kinds_of_models(kind: object, says: str, tiny_copy: Path, capsys: Capture) -> None:
    index = json.loads((tiny_copy / "model_index.json").read_text())
    (tiny_copy / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    assert main(["info", str(tiny_copy)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["class"] == str(kind)
    assert rows["complete"].startswith(says)


def test_a_name_is_looked_for_in_the_cache_only(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refused(["info", "hf:somebody/model"], capsys)
    assert "is not whole in the cache, and the Hugging Face Hub was not asked" in said
    said = refused(["info", "out/none.png"], capsys)
    assert said.startswith("there is no file or folder out/none.png")


def test_a_damaged_model(tiny_copy: Path, capsys: Capture) -> None:
    (weights,) = (tiny_copy / "decoder").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "is not a whole safetensors file" in refused(["info", str(tiny_copy)], capsys)
    (tiny_copy / "model_index.json").write_text("[1]")
    assert "must hold a JSON object" in refused(["info", str(tiny_copy)], capsys)


HOSTILE = "\x1b[31mRED\x1b]0;title\x07\u202e"


def test_nothing_that_a_terminal_obeys(tiny_copy: Path, tmp_path: Path, capsys: Capture) -> None:
    (tiny_copy / "README.md").write_text(f"---\nlicense: {HOSTILE}\n---\n")
    index = json.loads((tiny_copy / "model_index.json").read_text())
    index["decoder"] = ["diffusers", f"part\n{HOSTILE}"]
    (tiny_copy / "model_index.json").write_text(json.dumps(index))
    assert main(["info", str(tiny_copy)]) == 0
    notes = {"prompt": f"a\nseed  9{HOSTILE}", "seed": HOSTILE, "settings": {"eta": HOSTILE}}
    save_png(Image.new("RGB", (8, 8)), tmp_path / "i.png", {**notes, "model": HOSTILE})
    assert main(["info", str(tmp_path / "i.png")]) == 0
    said = capsys.readouterr().out
    assert "\\x1b[31mRED" in said
    assert all(character.isprintable() or character == "\n" for character in said)
    assert sum(line.startswith("seed ") for line in said.splitlines()) == 1


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_weights_keeps_nobody_waiting(
    tiny_copy: Path, capsys: Capture
) -> None:
    weights = tiny_copy / "prior" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    assert "is no regular file" in refused(["info", str(tiny_copy)], capsys)


def test_what_training_held_out_is_said(tiny_copy: Path, capsys: Capture) -> None:
    for stage, fraction in (("clip", 0.05), ("upsampler", 0.0), ("prior", 0.05)):
        note(ModelFolder(tiny_copy), stage, fraction)
    assert main(["info", str(tiny_copy)]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("held out "))
    assert row.endswith("  5 % of the images, by clip, prior; 0 % of the images, by upsampler")

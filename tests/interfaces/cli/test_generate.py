"""`unclip generate`: files, seeds, and mistakes that leave nothing behind."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces.cli import main
from unclip.interfaces.cli.reproduction import command_for
from unclip.outputs.images import read_info

FAST = ["--prior-steps", "2", "--decoder-steps", "2", "--super-res-steps", "1"]


def generate(*words: str, model: Path) -> int:
    return main(["generate", *words, "--model", str(model), "--precision", "fp32", *FAST])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_of_images(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "new" / "folder"
    assert generate("a red circle", "赤い丸", "-n", "2", "-o", str(out), model=tiny_model) == 0
    names = ["a-red-circle-0.png", "a-red-circle-1.png", "赤い丸-0.png", "赤い丸-1.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    said = capsys.readouterr()
    assert said.out.startswith("4 images of 32×32 pixels")
    assert str(out / "a-red-circle-0.png") in said.out
    assert "step" not in said.err  # no progress bar where nobody watches
    assert "'赤', 'い', '丸' mean nothing to this model" in said.err


def test_a_seed_is_the_same_image_alone_and_among_others(tiny_model: Path, tmp_path: Path) -> None:
    words = ["a blue star", "-o", str(tmp_path / "a")]
    assert generate(*words, "-n", "4", "--seed", "0", model=tiny_model) == 0
    alone = tmp_path / "alone.png"
    words = ["a blue star", "--seed", "2", "-o", str(alone)]
    assert generate(*words, model=tiny_model) == 0
    assert (pixels(alone) == pixels(tmp_path / "a" / "a-blue-star-2.png")).all()
    assert (pixels(alone) != pixels(tmp_path / "a" / "a-blue-star-1.png")).any()


def test_without_a_caption(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "x.png"
    words = ["", "-o", str(file), "--model", str(tiny_model), "--precision", "bfloat16", *FAST]
    assert main(["generate", *words]) == 0
    assert capsys.readouterr().err == (
        "unclip: the prompt is empty: images are drawn without a caption\n"
    )
    assert (read_info(file)["prompt"], read_info(file)["settings"]["precision"]) == ("", "bf16")
    assert "generate ''" in command_for(read_info(file))
    assert "there is no 'bf17'; did you mean 'bf16'?" in refused(
        ["generate", "a star", "--precision", "bf17"], capsys
    )


def test_notes(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    assert generate("a red circle", "--seed", "5", "-o", str(file), model=tiny_model) == 0
    notes = read_info(file)
    assert notes["prompt"] == "a red circle"
    assert notes["seed"] == 5
    assert notes["model"] == str(tiny_model)
    assert notes["settings"]["decoder_num_inference_steps"] == 2
    assert notes["settings"]["precision"] == "fp32"


def test_offloaded_weights_make_the_same_image(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where everything is in memory, the prior's packed weights round otherwise.
    monkeypatch.setattr("unclip.pipeline.loading.pack", lambda network: None)
    files = [tmp_path / "plain.png", tmp_path / "offloaded.png"]
    assert generate("a red circle", "-o", str(files[0]), model=tiny_model) == 0
    assert generate("a red circle", "--offload", "-o", str(files[1]), model=tiny_model) == 0
    assert (pixels(files[0]) == pixels(files[1])).all()


def test_a_variant_that_is_not_there(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["generate", "a star", "--variant", "fp16", "--model", str(tiny_model)]
    said = refused([*words, "-o", str(tmp_path / "o")], capsys)
    assert "no weights of the variant 'fp16'" in said
    assert list(tmp_path.iterdir()) == []


def test_the_prior_is_chosen_and_noted(
    tiny_priors: Path, tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "x.png"
    words = ["a red circle", "--prior", "autoregressive", "-o", str(file)]
    assert generate(*words, model=tiny_priors) == 0
    assert read_info(file)["settings"]["prior"] == "autoregressive"
    assert "--prior autoregressive" in command_for(read_info(file))
    again = tmp_path / "y.png"
    assert generate("a red circle", "-o", str(again), model=tiny_priors) == 0
    assert (pixels(file) != pixels(again)).any()
    capsys.readouterr()
    missing = tmp_path / "z.png"
    assert generate(*words[:3], "-o", str(missing), model=tiny_model) == 2
    assert "this model has no autoregressive prior" in capsys.readouterr().err
    assert not missing.exists()


def test_equal_names_do_not_overwrite_each_other(tiny_model: Path, tmp_path: Path) -> None:
    assert generate("a star", "a star!", "-o", str(tmp_path / "o"), model=tiny_model) == 0
    assert len(list((tmp_path / "o").iterdir())) == 2


def test_long_prompts_of_any_script_make_names_that_fit(tiny_model: Path, tmp_path: Path) -> None:
    assert generate("🟥赤い丸" * 300, "-o", str(tmp_path / "o"), model=tiny_model) == 0
    assert len(list((tmp_path / "o").iterdir())) == 1


def test_what_the_model_does_not_read_is_said(
    tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    prompt = "a red circle " * 40 + "zebra"
    assert generate(prompt, "-o", str(tmp_path), model=tiny_model) == 0
    said = capsys.readouterr().err
    assert said.count("is ignored") == 1
    assert "unclip: the model reads 24 tokens of a caption; " in said
    assert "Notice" not in said


def test_a_progress_bar_on_terminals(
    tiny_model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["a star", "-n", "2", "-o"]
    assert generate(*words, str(tmp_path / "plain"), model=tiny_model) == 0
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert generate(*words, str(tmp_path / "bar"), model=tiny_model) == 0
    assert "/10" in capsys.readouterr().err  # two images of 2 + 2 + 1 steps
    for name in ("a-star-0.png", "a-star-1.png"):
        assert (tmp_path / "bar" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x" * 100_000], "100,000 characters"),
        (["a \x07 bell"], "control character U+0007"),
        (["x", "-n", "0"], "0 images were asked for"),
        (["x", "-n", "-1"], "-1 images were asked for"),
        (["x", "-n", "10000"], "the limit is 1,000"),
        (["x", "--size", "48"], "16, 32 pixels"),
        (["x", "--sampler", "euler"], "euler"),
        (["x", "--guidance", "-2"], "-2.0"),
        (["x", "--batch-size", "0"], "--batch-size: the value is 0"),
        (["x", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_bad_requests(
    words: list[str], says: str, tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    more = ["--model", str(tiny_model), "--output", str(out)]
    assert says in refused(["generate", *words, *more], capsys)
    assert not out.exists()


def test_no_such_model(tmp_path: Path, capsys: Capture) -> None:
    words = ["generate", "x", "--output", str(tmp_path / "out"), "--model"]
    assert "there is no model folder" in refused([*words, str(tmp_path / "none")], capsys)
    assert "is not a model folder" in refused([*words, str(tmp_path)], capsys)
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    words = ["generate", "x", "--model", str(tiny_model), "--output"]
    assert "file" in refused([*words, str(tmp_path / "file")], capsys)
    assert "Not a directory" in refused([*words, str(tmp_path / "file" / "x.png")], capsys)
    assert "does not end in .png" in refused([*words, str(tmp_path / "x.jpg")], capsys)
    if os.getuid():
        tmp_path.chmod(0o500)
        assert "Permission denied" in refused([*words, str(tmp_path / "new")], capsys)
        tmp_path.chmod(0o700)


def test_a_full_disk_leaves_nothing(
    tiny_model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    words = ["generate", "x", "--model", str(tiny_model), "--output", str(out), *FAST]
    assert "No space left on device" in refused(words, capsys)
    assert list(out.iterdir()) == []

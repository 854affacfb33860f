"""`unclip evaluate`: tables, JSON files, mistakes. Numbers are tested in tests/evaluation."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import Judge, JudgeConfig
from unclip.evaluation.judge.training import JudgeStage
from unclip.evaluation.metrics import composition
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info
from unclip.storage.folder import ModelFolder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated images are kept below the folder that one is in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a judge that knows nothing, held against few real scenes."""
    monkeypatch.setattr(composition, "_REAL", 20)
    torch.manual_seed(0)
    network = Judge(JudgeConfig((8, 8, 8), (1, 1, 1))).initialise()
    JudgeStage(network).save(ModelFolder(tmp_path / "judge"))
    return tmp_path / "judge"


def test_clip_on_the_world(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "new" / "clip.json"
    words = ["evaluate", "clip", "--model", str(tiny_model), "-n", "8", "-o", str(report)]
    assert main(words) == 0
    said = capsys.readouterr().out
    for row in ("text → image, among 8", "image → text, among 8", "zero-shot colour, of 11"):
        assert row in said
    numbers = json.loads(report.read_text())
    assert numbers["retrieval"]["among"] == 8
    assert numbers["chance"]["recall@1"] == 1 / 8
    assert len(numbers["model_fingerprint"]) == 16
    assert numbers["world"]["split"] == "held-out"
    assert numbers["model"] == str(tiny_model)


def test_clip_on_a_small_folder(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    """256 pairs are a default, not a condition."""
    data = captioned_folder(tmp_path / "few", 5)
    assert main(["evaluate", "clip", "--model", str(tiny_model), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "5 pairs are all there are: each is held against these, not 256" in said
    assert "text → image, among 5, first 1" in said
    assert str(Rate(1, 1)).endswith(", 1 case)")
    assert str(Rate(1, 2)).endswith(", 2 cases)")


def test_classes_get_captions_by_a_template(
    tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("cat", "dog"):
        captioned_folder(tmp_path / name, 3)
        for text in (tmp_path / name).glob("*.txt"):
            text.unlink()
    words = ["evaluate", "clip", "--model", str(tiny_model), "--data", str(tmp_path)]
    assert "--template 'a photo of a {}' makes captions" in refused(words, capsys)
    assert main([*words, "--template", "a photo of a {}"]) == 0
    assert "among 6" in capsys.readouterr().out
    look = ["data", "inspect", str(tmp_path), "--size", "64", "--template", "a {}"]
    assert main(look) == 0
    assert "your images are 32 px: a size of 32 or smaller" in capsys.readouterr().out


def test_composition(tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    words = [
        "evaluate", "composition", "--model", str(tiny_model), "--judge", str(judge), "-n", "3",
        "--steps", "fast", "--batch-size", "2",
    ]  # fmt: skip
    assert main(words) == 2  # after a notice of captions that the tiny model cuts
    assert "the judge gets only" in capsys.readouterr().err
    assert main([*words, "--trust", "--output", str(report)]) == 0
    said = capsys.readouterr().out
    assert "background" in said
    assert "real, by the judge" in said
    numbers = json.loads(report.read_text())
    assert numbers["generated"]["scenes"] == 3
    assert numbers["steps"] == "fast"
    assert numbers["precision"] in ("fp32", "bf16")


def test_fid(tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "fid.json"
    words = [
        "evaluate", "fid", "--model", str(tiny_model), "-n", "3", "--size", "16", "--steps", "fast",
        "--reuse", "1", "--guidance-interval", "0", "5", "-o", str(report),
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    for row in ("FID  ", "KID × 1000", "CMMD", "real images of the same captions"):
        assert row in said
    numbers = json.loads(report.read_text())
    assert numbers["fid"]["images"] == 3
    assert numbers["fid"]["generated"] > 0
    assert numbers["guidance_interval"] == [0.0, 5.0]
    assert main([*words, "--data", str(captioned), "--clip", str(tiny_model)]) == 0
    assert json.loads(report.read_text())["data"] == str(captioned)


def test_images_are_made_once_for_all_metrics(
    tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Nothing asks for a number of images that the data does not have."""
    words = [
        "--model",
        str(tiny_model),
        "--data",
        str(captioned),
        "--size",
        "16",
        "--steps",
        "fast",
    ]
    assert main(["evaluate", "fid", *words]) == 0
    told = capsys.readouterr().err
    assert "12 images are all that the split allows" in told
    assert "12 images are not more than the 64 dimensions" in told
    page = tmp_path / "diversity.html"
    assert main(["evaluate", "diversity", *words, "--report", str(page)]) == 0
    said = capsys.readouterr()
    assert "12 of 12 images are there" in said.err
    assert "recall (k = 5)" in said.out
    assert page.read_text().count("data:image/png;base64,") == 24
    assert main(["evaluate", "clip", *words, "--generated", "-n", "20"]) == 0
    said = capsys.readouterr()
    assert "12 of 20 images are there" in said.err  # which the first two began with
    assert "CLIP score" in said.out


def test_guidance(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "guidance.json"
    words = [
        "evaluate", "guidance", "--model", str(tiny_model), "-n", "8", "--size", "16", "--steps",
        "fast", "--scales", "1", "3", "-o", str(report), "--report", str(tmp_path / "g.html"),
    ]  # fmt: skip
    assert main(words) == 0
    assert "scale 3" in capsys.readouterr().out
    numbers = json.loads(report.read_text())["numbers"]
    assert {one["of"] for one in numbers} == {"scale 1", "scale 3"}
    assert {"FID", "CLIP score"} <= {one["metric"] for one in numbers}
    for one in numbers:
        under = one["under"]
        assert {"images", "reference", "split", "filter", "crop", "colours"} <= under.keys()
        assert under["extractor"] == "clip"
        assert len(under["extractor_hash"]) == 16
        assert len(one["interval"]) == 2


def test_a_probe_rates_images_and_several_of_a_caption_are_held_apart(
    tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture
) -> None:
    (captioned / "ratings.csv").write_text(
        "file,rating\n" + "".join(f"{path.name},{k % 7}\n"
                                  for k, path in enumerate(sorted(captioned.glob("*.png"))))
    )  # fmt: skip
    common = ["--model", str(tiny_model), "--data", str(captioned), "-n", "4"]
    common += ["--size", "16", "--steps", "fast"]
    probe = tmp_path / "probe.safetensors"
    words = ["evaluate", "aesthetic", *common, "--save", str(probe), "--probe"]
    assert main([*words, str(captioned / "ratings.csv")]) == 0
    said = capsys.readouterr()
    assert "on 5 held-out images, 19 fitted to" in said.err
    assert said.out.count("aesthetic score") == 2
    words = ["evaluate", "guidance", *common, "--scales", "1", "2", "--probe", str(probe)]
    assert main(words) == 0
    assert "aesthetic score" in capsys.readouterr().out
    assert main(["evaluate", "diversity", *common, "--per-caption", "2"]) == 0
    said = capsys.readouterr()
    assert "2 images of a caption" in said.out
    assert "4 of 8 images are there" in said.err


def test_reconstruction_and_upsampling(
    tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture
) -> None:
    common = ["--model", str(tiny_model), "--data", str(captioned), "-n", "5", "--steps", "fast"]
    words = ["evaluate", "reconstruction", *common, "--size", "16", "--invert-steps", "2"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "from z_i and its own x_T" in said.out
    assert "nearest of 5 is the image" in said.out
    words = ["evaluate", "upsampling", *common, "--degradation", "bsr"]
    assert main([*words, "--report", str(tmp_path / "large.html")]) == 0
    assert "PSNR, difference" in capsys.readouterr().out
    assert main(words) == 0
    assert "5 of 5 images are there" in capsys.readouterr().err


def test_the_protocol_of_coco(
    tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Captions by the seed, all real images, their middle at 256 pixels."""
    names = sorted(path.name for path in captioned.glob("*.png"))
    for name in names:
        with Image.open(captioned / name) as image:
            image.resize((300, 260)).save(captioned / name)
    captions = [(captioned / name).with_suffix(".txt").read_text() for name in names]
    listed = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
        "annotations": [{"image_id": k, "caption": caption} for k, caption in enumerate(captions)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(listed))
    words = [
        "evaluate", "fid", "--model", str(tiny_model), "--coco", str(tmp_path / "captions.json"),
        str(captioned), "--size", "16", "--steps", "fast", "-o",
    ]  # fmt: skip
    assert main([*words, str(tmp_path / "all.json")]) == 0
    under = json.loads((tmp_path / "all.json").read_text())["numbers"][0]["under"]
    assert (under["images"], under["references"]) == (24, 24)
    assert under["reference"] == "all real images of the split"
    assert "256 px" in under["crop"]
    capsys.readouterr()
    for seed in ("1", "1", "2"):
        assert main([*words, str(tmp_path / f"{seed}.json"), "-n", "3", "--seed", seed]) == 0
    told = capsys.readouterr().err
    assert "3 of 3 images are there" in told
    first, second = (json.loads((tmp_path / f"{k}.json").read_text())["fid"] for k in "12")
    assert first != second
    assert "both say what the data is" in refused([*words, "x.json", "--data", "mine"], capsys)


def test_edits(tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    words = [
        "evaluate", "edits", "--model", str(tiny_model), "--judge", str(judge), "-n", "4",
        "--theta", "0.3", "0.5", "--steps", "fast", "--invert-steps", "2",
    ]  # fmt: skip
    assert main([*words, "--trust", "-o", str(report)]) == 0
    said = capsys.readouterr().out
    for row in ("two at once  inverted", "background   fresh", "variation, η = 1", "blend, θ = 0"):
        assert row in said
    numbers = json.loads(report.read_text())
    assert numbers["scenes"] == 4
    assert set(numbers["edits"]["fresh"]) == {"0.3", "0.5"}
    assert numbers["edits"]["fresh"]["0.3"]["object"]["success"]["total"] == 1
    assert numbers["theta"] == [0.3, 0.5]


def test_inpainting(tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    words = [
        "evaluate", "inpainting", "--model", str(tiny_model), "--judge", str(judge), "-n", "2",
        "--steps", "fast", "--resamples", "1", "--trust", "-o", str(report),
    ]  # fmt: skip
    assert main(words) == 0
    assert "jump at the border" in capsys.readouterr().out
    numbers = json.loads(report.read_text())
    assert numbers["object"]["total"] == numbers["scenes"] == 2
    assert numbers["resamples"] == 1
    assert numbers["seam"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("clip -n 1", "take at least 2 pairs"),
        ("clip --data none", "does not exist"),
        ("clip --output {tmp}", "is a folder"),
        ("composition --judge {tmp}", "holds no judge"),
        ("composition --judge {judge} -n 0", "-n/--n: the value is 0"),
        ("composition --judge {judge} --size 48", "16, 32 pixels"),
        ("fid -n 1", "n is 1"),
        ("fid --features nothing", "there is no extractor 'nothing'"),
        ("fid --features {tmp}", "config.json"),
        ("fid --against all", "has no end"),
        ("fid --report page.txt", "does not end in .html"),
        ("fid --coco none.json {tmp}", "none.json"),
        ("guidance --guidance 3", "--scales changes"),
        ("diversity -n 4 --k 4 --steps fast --size 16", "is not below the 4 images"),
        ("upsampling --size 16", "no upsampler"),
        ("reconstruction --invert-steps 0", "--invert-steps"),
        ("fid --data none", "does not exist"),
        ("fid --size 48", "16, 32 pixels"),
        ("composition --judge {judge} --world.max-objects 9", "max_objects is 9"),
        ("edits --judge {judge} -n 1", "n is 1"),
        ("edits --judge {judge} --theta 2", "--theta: the value is 2.0"),
        ("edits --judge {judge} --size 48", "16, 32 pixels"),
        ("edits --judge {judge} -n 4", "the judge gets only"),
        ("inpainting --judge {judge} -n 0", "-n/--n: the value is 0"),
        ("inpainting --judge {judge} -n 4", "the judge gets only"),
        ("inpainting --judge {judge} --size 48", "16, 32 pixels"),
        ("inpainting --judge {judge} --resamples 0", "resamples"),
    ],
)
def test_bad_requests(
    words: str, says: str, tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = words.format(tmp=tmp_path, judge=judge).split()
    assert says in refused(["evaluate", *command, "--model", str(tiny_model)], capsys)


def test_images_of_a_sweep_say_the_scale_that_they_were_made_at(tiny_model: Path) -> None:
    words = ["evaluate", "guidance", "--model", str(tiny_model), "-n", "2", "--size", "16"]
    assert main([*words, "--steps", "fast", "--scales", "1", "2"]) == 0
    scales = [
        read_info(file)["settings"]["decoder_guidance_scale"]
        for file in Path("out/generated").glob("*/*.png")
    ]
    assert sorted(scales) == [1.0, 1.0, 2.0, 2.0]


def test_reconstructions_promise_no_command(tiny_model: Path, capsys: Capture) -> None:
    words = ["evaluate", "reconstruction", "--model", str(tiny_model), "-n", "2", "--size", "16"]
    assert main([*words, "--steps", "fast", "--invert-steps", "2"]) == 0
    file = next(Path("out/generated").glob("*/*.png"))
    capsys.readouterr()
    assert main(["info", str(file)]) == 0
    said = capsys.readouterr().out
    assert "No command makes it again" in said
    assert "unclip generate" not in said


@pytest.mark.parametrize(
    "what", ["fid", "diversity", "clip", "guidance", "aesthetic", "upsampling", "memorisation"]
)
def test_features_of_no_network_are_refused(what: str, capsys: Capture) -> None:
    words = ["evaluate", what, "--model", "nowhere", "--features"]
    assert "--features names no network" in refused(words, capsys)

"""`unclip invert`, `vary`, `blend`, `edit`, `probe`, `embed`, `decode`: files, and mistakes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.files import read_facts
from unclip.interfaces.cli import main
from unclip.interfaces.cli.commands.embed import embeddings_of
from unclip.outputs.images import read_info
from unclip.outputs.latents import read_embeddings

FAST = ["--decoder-steps", "2", "--super-res-steps", "1"]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """Anything: wider than high, with transparency, and a name with a space."""
    path = tmp_path / "my picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    Image.fromarray(noise).save(path)
    return str(path)


def unclip(command: str, *words: str, model: Path) -> int:
    more = FAST if command in ("vary", "blend", "edit", "probe", "decode") else []
    return main([command, *words, "--model", str(model), "--precision", "fp32", *more])


def test_invert_then_vary(tiny_model: Path, picture: str, tmp_path: Path, capsys: Capture) -> None:
    file, sheet = tmp_path / "new" / "l.safetensors", tmp_path / "sheet.png"
    words = [picture, "--steps", "2", "-o", str(file), "--sheet", str(sheet)]
    assert unclip("invert", *words, model=tiny_model) == 0
    said = capsys.readouterr().out
    assert "my picture.png: the reconstruction has a PSNR of" in said
    assert "16×16 pixels" in said
    assert sheet.exists()
    out = tmp_path / "out"
    assert unclip("vary", str(file), "-n", "2", "-o", str(out), model=tiny_model) == 0
    assert sorted(path.name for path in out.iterdir()) == ["vary-000.png", "vary-001.png"]
    notes = read_info(out / "vary-001.png")
    assert notes["command"][:2] == ["vary", str(file)]
    capsys.readouterr()
    assert main(["info", str(out / "vary-001.png")]) == 0
    assert f"unclip vary {file} -n 2" in capsys.readouterr().out


def test_blends(tiny_model: Path, picture: str, tmp_path: Path) -> None:
    Image.effect_noise((20, 20), 90).save(tmp_path / "other.jpg")
    both = [picture, str(tmp_path / "other.jpg"), "--frames", "3", "--output"]
    for name, frames in (("b.gif", 3), ("b.apng", 3), ("b.png", 1)):
        assert unclip("blend", *both, str(tmp_path / name), model=tiny_model) == 0
        with Image.open(tmp_path / name) as image:
            assert getattr(image, "n_frames", 1) == frames
    assert read_info(tmp_path / "b.apng")["command"][0] == "blend"
    assert Image.open(tmp_path / "b.png").width > 3 * 96  # a sheet


def test_edit_and_probe(tiny_model: Path, picture: str, tmp_path: Path, capsys: Capture) -> None:
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    words = ["--to", "a red circle", "--from", "a photo", "--frames", "2", "--no-invert"]
    more = ["-o", str(out), "--sheet", str(sheet)]
    assert unclip("edit", picture, *words, *more, model=tiny_model) == 0
    assert len(list(out.iterdir())) == 2
    assert sheet.exists()
    capsys.readouterr()
    steps = ["--invert-steps", "7", "-o", str(sheet)]
    assert unclip("edit", picture, *words, *steps, model=tiny_model) == 0
    assert "nothing is inverted: --invert-steps does nothing" in capsys.readouterr().err
    assert unclip("edit", picture, *words, "--sheet", str(sheet), *steps, model=tiny_model) == 2
    assert "the same file" in capsys.readouterr().err
    words = ["--samples", "3", "--components", "1", "64", "-o", str(tmp_path / "p.png")]
    assert unclip("probe", picture, *words, model=tiny_model) == 0
    assert (tmp_path / "p.png").exists()


def test_embed_and_decode(tiny_model: Path, picture: str, tmp_path: Path) -> None:
    folder = str(Path(picture).parent)
    for name in ("e.npy", "e.safetensors"):
        words = [picture, folder, "a red circle", "-o", str(tmp_path / name)]
        assert unclip("embed", *words, model=tiny_model) == 0
    array = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert array.shape == (3, 64)
    assert (array == load_file(tmp_path / "e.safetensors")["embeddings"]).all()
    clip = read_facts(tmp_path / "e.safetensors")["clip"]
    assert len(read_embeddings(tmp_path / "e.safetensors", 64, clip)) == len(array)
    with pytest.raises(ValueError, match=r"of another model's CLIP .*; embed anew"):
        read_embeddings(tmp_path / "e.safetensors", 64, "0123456789abcdef")
    assert (array[0] == array[1]).all()
    for name in ("e.npy", "e.safetensors"):
        words = [str(tmp_path / name), "-o", str(tmp_path / f"{name}.png")]
        assert unclip("decode", *words, model=tiny_model) == 0
    pixels = [np.asarray(Image.open(tmp_path / f"e.{end}.png")) for end in ("npy", "safetensors")]
    assert (pixels[0] == pixels[1]).all()


def test_folders_are_embedded_as_training_finds_them(
    tiny_model: Path, picture: str, tmp_path: Path, capsys: Capture
) -> None:
    """What is damaged or none is named and passed over, and the rest is kept."""
    whole, folder = Path(picture).read_bytes(), tmp_path / "photos"
    for name in ("b.png", "d.jpg/a.png", "._b.png", "__MACOSX/b.png", ".thumbs/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(whole if name[0] != "." else b"resource fork")
    (folder / "c\x1b[2J.png").write_bytes(whole[:300])  # its header is fine
    (folder / "e.png").write_text("no image")
    (folder / "f.heic").write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "g.png").write_bytes(whole)
    (folder / "link").symlink_to(tmp_path / "other")
    file = tmp_path / "e.safetensors"
    assert unclip("embed", str(folder), "-o", str(file), model=tiny_model) == 0
    rows = json.loads(read_facts(file)["names"])
    assert rows == [str(folder / name) for name in ("b.png", "d.jpg/a.png", "link/g.png")]
    said = capsys.readouterr().err
    assert "skipped: 1 file in formats of pictures or films that are not read" in said
    assert "used: 1 file outside the folder, through links (link/g.png)" in said
    assert "skipped: 2 images that cannot be read" in said
    assert r"c\x1b[2J.png is damaged" in said
    assert unclip("probe", picture, "--data", str(folder), "--components", "1", "-o",
                  str(tmp_path / "p.png"), model=tiny_model) == 0  # fmt: skip
    (folder / "only").mkdir()
    (folder / "only" / "e.png").write_text("no image")
    assert "e.png is not an image" in refused(["embed", str(folder / "only")], capsys)


def test_some_of_a_folder_are_drawn_by_a_fixed_seed(captioned: Path) -> None:
    """The first by name would be of one kind, where names say the kind."""

    def embed(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).astype(np.float32)).mean(dim=(0, 1))[None]

    pipe: Any = SimpleNamespace(embed_images=embed)
    every = embeddings_of(pipe, str(captioned), 24)
    few = embeddings_of(pipe, str(captioned), 5)
    assert torch.equal(few, every[:5])
    first = torch.cat([embed(Image.open(captioned / f"{n:03}.png")) for n in range(5)])
    assert not torch.equal(few, first)


def test_names_that_are_no_text(
    tiny_model: Path, picture: str, tmp_path: Path, capsys: Capture
) -> None:
    """A file's name may hold bytes that are no UTF-8."""
    name = tmp_path / "b\udcff.png"
    try:
        Path(picture).rename(name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert unclip("embed", str(name), "-o", str(tmp_path / "e.safetensors"), model=tiny_model) == 0
    words = ["-o", str(tmp_path / "v.png"), "--sheet", str(tmp_path / "s.png")]
    assert unclip("vary", str(name), *words, model=tiny_model) == 0
    assert read_info(tmp_path / "v.png")["command"][1] == str(name)


def test_hostile_images(tmp_path: Path, capsys: Capture) -> None:
    noise = Image.effect_noise((64, 64), 90)
    noise.save(tmp_path / "whole.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no picture")
    head = bytearray((tmp_path / "whole.png").read_bytes())
    head[16:24] = (60_000).to_bytes(4, "big") * 2  # a bomb: its header says 3.6 gigapixels
    import zlib

    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(head)
    for command in ("invert", "vary"):
        for name, says in (
            ("none.png", "does not exist"),
            ("short.png", "damaged or cut short"),
            ("text.png", "not an image"),
            ("bomb.png", "pixels"),
        ):
            output = tmp_path / ("l.safetensors" if command == "invert" else "out")
            words = [command, str(tmp_path / name), "-o", str(output)]
            assert says in refused(words, capsys)
            assert not output.exists()


def test_images_of_every_kind(tiny_model: Path, tmp_path: Path) -> None:
    noise = Image.effect_noise((30, 20), 90)
    noise.resize((1, 1)).save(tmp_path / "1x1.png")
    noise.save(tmp_path / "animated.gif", save_all=True, append_images=[noise])
    noise.convert("P").save(tmp_path / "palette.png")
    noise.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((5, 300), 40_000, np.uint16)).save(tmp_path / "deep.png")
    files = [str(path) for path in tmp_path.iterdir()]
    assert unclip("invert", *files, "--steps", "1", "-o", str(tmp_path / "l.safetensors"),
                  model=tiny_model) == 0  # fmt: skip
    assert load_file(tmp_path / "l.safetensors")["x_T"].shape == (5, 3, 16, 16)


def test_bad_requests(tiny_model: Path, picture: str, tmp_path: Path, capsys: Capture) -> None:
    out, wide = str(tmp_path / "out"), str(tmp_path / "wide.npy")
    np.save(wide, np.zeros((2, 3), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    save_file({"other": np.zeros((1, 64), np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "short.npy").write_bytes(Path(wide).read_bytes()[:-4])
    for words, says in (
        (["edit", picture, "--to", "x", "--theta", "1.2"], "θ is 1.2"),
        (["edit", picture, "--to", " "], "the prompt is empty"),
        (["edit", picture], "--to"),
        (["blend", picture], "at least 2"),
        (["blend", picture, picture, "--frames", "0"], "0 images were asked for"),
        (["vary"], "there is no image: give one"),
        (["vary", picture, "-n", "0"], "0 images were asked for"),
        (["vary", picture, "--eta", "2"], "--eta: the value is 2.0"),
        (["probe", picture, "--components", "65"], "this model has 64"),
        (["decode", wide], "width 3, but this model's embeddings have width 64"),
        (["decode", str(tmp_path / "objects.npy")], "not a whole .npy file of numbers"),
        (["decode", str(tmp_path / "short.npy")], "not a whole .npy file of numbers"),
        (["decode", str(tmp_path / "other.safetensors")], "must be called 'embeddings'"),
        (["decode", picture], "ends neither in .npy nor in .safetensors"),
    ):
        more = ["--model", str(tiny_model), "--output", out, "--sampler", "ddim", *FAST]
        assert says in refused([*words, *more], capsys)
        assert not Path(out).exists()
    assert "none.png does not exist" in refused(["embed", "none.png"], capsys)
    half = ["embed", "x", "-o", str(tmp_path / "e\udcff.safetensors")]
    assert "a name that is not UTF-8; rename" in refused(half, capsys)
    assert "does not end in .npy or .safetensors" in refused(
        ["embed", "x", "-o", str(tmp_path / "e.txt")], capsys
    )
    assert "does not end in .png or .gif" in refused(
        ["blend", picture, picture, "-o", str(tmp_path / "b.mp4")], capsys
    )

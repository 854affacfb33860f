"""Bad input of the commands that change images: one sentence, exit code 2, and nothing written."""

import shlex
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.interfaces.cli.test_cli import Capture, refused
from unclip import Pipeline
from unclip.files import write_safetensors
from unclip.outputs.latents import Latents

OPEN = "unclip.interfaces.cli.options.ModelOptions.open"


def _not_opened(self: object) -> None:
    raise AssertionError("the model was opened before what can be refused without it")


def _words(line: str, bad: Path) -> list[str]:
    """The line's words, names of files in `bad` with their folder."""
    words = shlex.split(line.format(bad=bad))
    return [str(bad / word) if (bad / word).is_file() else word for word in words]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what users come with; `ok.png` and `ok.safetensors` are good."""
    folder = tmp_path_factory.mktemp("bad")
    noise = Image.effect_noise((40, 30), 90)
    noise.save(folder / "ok.png")
    whole = (folder / "ok.png").read_bytes()
    (folder / "short.png").write_bytes(whole[:900])
    noise.convert("RGB").save(folder / "whole.jpg")
    (folder / "short.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:500])
    (folder / "empty.png").write_bytes(b"")
    (folder / "noise.webp").write_bytes(bytes(range(256)))
    (folder / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    head = bytearray(whole)
    head[16:24] = (60_000).to_bytes(4, "big") * 2  # its header says 3.6 gigapixels
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(head)
    Image.fromarray(np.array([[0.5, np.nan]], np.float32)).save(folder / "nan.tiff")
    (folder / "a file").write_text("")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "taken.png").mkdir()
    (folder / "taken.npy").mkdir()
    (folder / "taken.safetensors").mkdir()
    _embeddings(folder)
    z_i, x_T = torch.randn(2, 64), torch.randn(2, 3, 16, 16)  # noqa: N806
    Latents(z_i, x_T, 2).save(folder / "ok.safetensors")
    Latents(z_i, x_T, 2, "0123456789abcdef").save(folder / "other.safetensors")
    Latents(z_i[:, 1:], x_T, 2).save(folder / "narrow.safetensors")
    facts = {"unclip": "unclip-latents-1", "steps": "2"}
    huge = {"z_i": z_i, "x_T": x_T.double() * 1e300}
    write_safetensors(folder / "huge.safetensors", huge, facts)
    Latents(z_i, x_T, 5000).save(folder / "many.safetensors")
    short = (folder / "ok.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(short[: len(short) // 2])
    (folder / "head.safetensors").write_bytes(short[:4])
    (folder / "pickle.safetensors").write_bytes(b"\x80\x04\x95" + bytes(100))
    return folder


def _embeddings(folder: Path) -> None:
    np.save(folder / "wide.npy", np.zeros((1, 65), np.float32))
    np.save(folder / "nan.npy", np.full((1, 64), np.nan, np.float32))
    np.save(folder / "huge.npy", np.full((1, 64), 1e300))  # finite, but not in float32
    np.save(folder / "int.npy", np.zeros((1, 64), np.int64))
    np.save(folder / "complex.npy", np.zeros((1, 64), np.complex64))
    np.save(folder / "scalar.npy", np.float32(1.0))
    np.save(folder / "cube.npy", np.zeros((1, 1, 64), np.float32))
    np.save(folder / "none.npy", np.zeros((0, 64), np.float32))
    np.save(folder / "many.npy", np.zeros((1001, 64), np.float32))
    np.savez(folder / "zip", a=np.zeros((1, 64), np.float32))
    (folder / "zip.npz").rename(folder / "zip.npy")
    (folder / "head.npy").write_bytes(b"PK\x03\x04" + bytes(100))
    for name, shape in (
        ("open", "([, 64)"),
        ("deep", "(" * 9000),
        ("far", f"({2**70}, 64)"),
        ("big", f"({2**62}, 64)"),
    ):
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        magic = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little")
        (folder / f"{name}.npy").write_bytes(magic + head + bytes(512))
    embeddings = torch.full((1, 64), 1e300, dtype=torch.float64)
    write_safetensors(folder / "huge.e.safetensors", {"embeddings": embeddings})


@pytest.mark.parametrize("command", ["vary", "edit --to x", "invert", "probe", "embed", "upscale"])
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("none.png", "does not exist"),
        ("short.png", "damaged or cut short"),
        ("short.jpg", "damaged or cut short"),
        ("empty.png", "not an image"),
        ("noise.webp", "not an image"),
        ("page.png", "not an image"),
        ("bomb.png", "pixels"),
        ("nan.tiff", "NaN or infinite"),
        ("taken.png", "is a folder"),
        ("a file/x.png", "cannot be read: Not a directory"),
        ("x" * 300 + ".png", "ame too long"),
    ],
)
def test_images(
    command: str, file: str, says: str, bad: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where the default outputs are
    monkeypatch.setattr(OPEN, _not_opened)
    name, *words = command.split()
    if name == "embed":  # takes folders and texts too; reads images one by one, with the model
        monkeypatch.setattr(OPEN, lambda self: SimpleNamespace(embed_images=None))
        says = "holds no images" if file == "taken.png" else says
        says = "does not exist" if file[:2] in ("a ", "xx") else says
    assert says in refused([name, str(bad / file), *words], capsys)
    assert not list(tmp_path.iterdir())


REFUSED = [
    # outputs
    ("vary ok.png -o x.jpg", "x.jpg does not end in .png"),
    ("vary ok.png -o {bad}/a\\ file/out", "cannot write into the folder"),
    ("vary ok.png -o /proc/nowhere/out", "cannot write into the folder"),
    ("vary ok.png -o {bad}/dangling/out", "is a link to nothing"),
    ("vary ok.png -o {bad}/loop", "is a link to nothing"),
    ("vary ok.png --sheet {bad}/taken.png", "taken.png is a folder"),
    ("vary ok.png --sheet s.gif", "s.gif does not end in .png"),
    ("edit ok.png --to x --sheet {bad}/a\\ file/s.png", "cannot write into the folder"),
    ("blend ok.png ok.png -o b.mp4", "b.mp4 does not end in .png or .gif or .apng"),
    ("upscale ok.png -o /proc/nowhere/x.png", "cannot write into the folder"),
    ("invert ok.png -o l.pt", "l.pt does not end in .safetensors"),
    ("invert ok.png -o {bad}/taken.safetensors", "taken.safetensors is a folder"),
    ("invert ok.png --sheet {bad}/a\\ file/s.png", "cannot write into the folder"),
    ("invert ok.png --sheet {bad}/taken.png", "taken.png is a folder"),
    ("embed ok.png -o {bad}/taken.npy", "taken.npy is a folder"),
    ("decode ok.npy -o /proc/nowhere/x.png", "cannot write into the folder"),
    # texts
    ("embed ''", "the prompt is empty"),
    ("embed '  '", "the prompt is empty"),
    ("edit ok.png --to ''", "the prompt is empty"),
    # numbers
    ("edit ok.png --to x --theta nan", "--theta: the value is nan"),
    ("edit ok.png --to x --theta -0.1", "θ is -0.1"),
    ("edit ok.png --to x --theta inf", "θ is inf"),
    ("edit ok.png --to x --frames 0", "0 images were asked for"),
    ("edit ok.png --to x --frames 100000", "100,000 images were asked for at once"),
    ("blend ok.png ok.png --frames 0", "0 images were asked for"),
    ("blend ok.png ok.png --frames 1", "1 frames between 2 images"),
    ("blend ok.png ok.png --frames 100000", "100,000 images were asked for at once"),
    ("blend ok.png ok.png --invert --weights 1", "1 weight was given for 2 images"),
    ("blend ok.png ok.png --weights", "it takes 1 to 64 values, not 0"),
    ("blend ok.png ok.png --weights 1 nan", "--weights: the value is nan"),
    ("blend ok.png ok.png --weights 1 -1", "weights must be 0 or more"),
    ("blend ok.png ok.png --weights 0 0", "weights must be 0 or more"),
    ("vary ok.png --eta nan", "--eta: the value is nan"),
    ("vary ok.png --guidance nan", "--guidance: the value is nan; it must be a finite number"),
    ("vary ok.png --guidance inf", "--guidance: the value is inf"),
    ("vary ok.png --decoder-steps 0", "--decoder-steps: the value is 0; it must be between 1 and"),
    ("vary ok.png --batch-size 0", "--batch-size: the value is 0"),
    ("vary ok.png --invert --invert-steps 0", "--invert-steps: the value is 0"),
    ("upscale ok.png --eta nan", "--eta: the value is nan"),
    ("upscale ok.png --super-res-steps 0", "--super-res-steps: the value is 0"),
    ("decode ok.npy -n 1000000000", "1,000,000,000 images were asked for"),
    ("vary ok.png -n 100000", "100,000 images were asked for at once"),
    # latents
    ("vary short.safetensors", "not a whole safetensors file"),
    ("vary head.safetensors", "not a whole safetensors file"),
    ("vary pickle.safetensors", "not a whole safetensors file"),
    ("vary huge.safetensors", "NaN or infinite"),
    ("vary huge.e.safetensors", "holds no latents"),
    ("vary none.safetensors", "does not exist"),
    ("vary {bad}/taken.safetensors", "is a folder"),
    ("blend ok.safetensors ok.png", "give one file of latents, or images"),
    ("probe ok.safetensors", "holds 2 images; components are probed of one"),
]


@pytest.mark.parametrize(("line", "says"), REFUSED)
def test_refused_before_the_model_is_opened(
    line: str, says: str, bad: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unclip.interfaces.cli.options.ModelOptions.open", _not_opened)
    assert says in refused(_words(line, bad), capsys)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("vary other.safetensors", "made by another model"),
        ("vary narrow.safetensors", "width 63"),
        ("vary many.safetensors --invert", "5000"),
        ("edit other.safetensors --to 'a red star'", "made by another model"),
        ("blend other.safetensors", "made by another model"),
        ("edit ok.png --to 'a star' --from 'a star'", "nothing to change"),
        ("vary ok.png --size 48", "16, 32 pixels"),
        ("probe ok.png --samples 1", "components need at least 2"),
        ("probe ok.png --data wide.npy", "width 65"),
        ("probe ok.png --data none", "does not exist"),
        ("decode wide.npy", "width 65, but this model's embeddings have width 64"),
        ("decode nan.npy", "NaN or infinite"),
        ("decode huge.npy", "NaN or infinite"),
        ("decode huge.e.safetensors", "NaN or infinite"),
        ("decode int.npy", "int64"),
        ("decode complex.npy", "complex64"),
        ("decode scalar.npy", "the shape ()"),
        ("decode cube.npy", "the shape (1, 1, 64)"),
        ("decode none.npy", "the shape (0, 64)"),
        ("decode many.npy", "1,001 images were asked for at once"),
        ("decode zip.npy", "is an archive"),
        ("decode head.npy", "is an archive"),
        ("decode open.npy", "is not a whole .npy file"),
        ("decode deep.npy", "is not a whole .npy file"),
        ("decode far.npy", "is not a whole .npy file"),
        ("decode big.npy", "is not a whole .npy file"),
        ("decode short.safetensors", "not a whole safetensors file"),
        ("decode ok.safetensors", "holds latents; `unclip vary` and"),
        ("upscale ok.png --size 40", "does not enlarge it"),
    ],
)
def test_refused_by_the_model(
    line: str, says: str, bad: Path, pipe: Pipeline, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OPEN, lambda self: pipe)
    assert says in refused(_words(line, bad), capsys)
    assert not list(tmp_path.iterdir())
    assert not recwarn.list

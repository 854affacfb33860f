"""Model folders with a file spoiled, missing or replaced, for every command that opens one."""

from pathlib import Path
from random import Random

from tests.fuzz.case import QUICK, Case, Good
from tests.fuzz.hostile import WORDS, replace, spoil_bytes, spoil_json, spoil_safetensors
from unclip import Pipeline

_MODEL = ("--model", "model")
_COMMANDS = (
    ("info", "model"),
    ("info", "model"),
    ("generate", "a red circle", *_MODEL, *QUICK, "--prior-steps", "1", "-o", "o.png"),
    ("generate", "a red circle", *_MODEL, *QUICK, "--prior", "autoregressive", "-o", "o.png"),
    ("vary", "i.png", *_MODEL, *QUICK, "-o", "o.png"),
    ("upscale", "i.png", *_MODEL, "--precision", "fp32", "--super-res-steps", "1", "-o", "o.png"),
    ("embed", "i.png", "a star", *_MODEL, "--precision", "fp32", "-o", "e.npy"),
    ("generate", "a red circle", *_MODEL, *QUICK, "--offload", "--steps", "fast", "-o", "o.png"),
    ("borrow", "clip", "prior", "decoder", "upsampler", "--from", "model", "--model", "new"),
    ("evaluate", "clip", *_MODEL, "--data", "images", "-n", "4", "--size", "16"),
)


def make(random: Random, place: Path, good: Good) -> Case:
    model = good.copy("model", place)
    good.copy("images/000.png", place).rename(place / "i.png")
    words = random.choice(_COMMANDS)
    if "images" in words:
        good.copy("images", place)
    if random.random() < 0.15:
        said = _rearrange(random, model)
    else:
        files = [path for path in sorted(model.rglob("*")) if path.is_file()]
        file = random.choice(files)
        said = f"{file.relative_to(model)}: {_spoil(random, file)}"
    if random.random() < 0.1:
        return Case(f"{said} (save_pretrained)", call=lambda: _saved(model))
    return Case(said, words)


def _saved(model: Path) -> None:
    Pipeline.from_pretrained(model, dtype="fp32").save_pretrained("saved")


def _spoil(random: Random, file: Path) -> str:
    if random.random() < 0.15:
        return replace(random, file)
    if file.suffix == ".json":
        return spoil_json(random, file)
    return (spoil_safetensors if file.suffix == ".safetensors" else spoil_bytes)(random, file)


def _rearrange(random: Random, model: Path) -> str:
    """Whole components in wrong places, and files that nobody wrote."""
    parts = sorted(path for path in model.iterdir() if path.is_dir())
    one, other = random.sample(parts, 2)
    what = random.choice(("swap", "move", "stranger", "card", "variant"))
    if what == "swap":
        one.rename(model / "x")
        other.rename(one)
        (model / "x").rename(other)
    elif what == "move":
        one.rename(model / f"{random.choice(WORDS).replace('/', '_')[:200]}_")
    elif what == "stranger":
        said = replace(random, one / random.choice(("x.safetensors", "config.json", "x.json")))
        return f"in {one.name}: {said}"
    elif what == "card":
        card = model / "README.md"
        if random.random() < 0.5:
            return f"README.md: {replace(random, card)}"
        word = random.choice(WORDS).encode(errors="surrogateescape")
        card.write_bytes(b"---\nlicense: " + word + b"\n---\n")
        return f"licence {word[:40]!r}"
    else:
        for file in one.glob("*.safetensors"):
            file.rename(file.with_suffix(f".{random.choice(('fp16', '', 'x y'))}.safetensors"))
    return f"{what} {one.name}, {other.name}"

"""Files of latents: their tensors, their facts, and what they are used for."""

from pathlib import Path
from random import Random

from safetensors.torch import load_file, save_file

from tests.fuzz.case import QUICK, Case, Good
from tests.fuzz.hostile import WORDS, replace, spoil_safetensors
from unclip.files import read_facts
from unclip.outputs.latents import Latents

_COMMANDS = (
    ("vary", "-n", "1"),
    ("vary", "--invert", "--invert-steps", "2"),
    ("edit", "--to", "a star", "--frames", "2"),
    ("blend", "--frames", "2"),
    ("blend", "--weights", "1", "2"),
    ("probe", "--components", "2"),
    ("info",),
)


def make(random: Random, place: Path, good: Good) -> Case:
    file = good.copy("latents.safetensors", place)
    way = random.random()
    if way < 0.12:
        said = replace(random, file)
    elif way < 0.5:
        key = random.choice(("unclip", "model", "size", "steps", "format"))
        value = random.choice(WORDS).encode(errors="replace").decode()
        facts = {**read_facts(file), key: value}
        save_file(load_file(file), file, facts)
        said = f"{key} = {value[:40]!r}"
    else:
        said = spoil_safetensors(random, file)
    if random.random() < 0.15:
        return Case(f"{said} (load)", call=lambda: Latents.load(file))
    name, *rest = random.choice(_COMMANDS)
    data = ("--data", str(good.root / "two.npy")) if name == "probe" else ()
    if name == "info":
        return Case(f"{name}: {said}", (name, file.name))
    common = ("--model", str(good.model), *QUICK, "-o", "o.png")
    return Case(f"{name}: {said}", (name, file.name, *rest, *data, *common))

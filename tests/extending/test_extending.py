"""What docs/extending.md promises: each kind of extension is a file and a row, and is then there.

Each test adds one to a copy of the package and uses it by flags, in Python, in a note and in a
recipe, as far as it has these. Nothing else of the copy is edited.
"""

import re
import shutil
from pathlib import Path

import pytest

from tests.extending.house import House

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def house(tmp_path: Path, tiny_model: Path) -> House:
    """With a tiny model in the folder `model`, and a picture by it in `a.png`."""
    shutil.copytree(tiny_model, tmp_path / "model")
    return House.copied(tmp_path)


def promised(heading: str, house: House) -> None:
    """The section names every file that got a row, and there was at most one beside the new."""
    section = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(heading))
    assert len(house.rows) == 1
    assert house.rows[0] in text
    for file in house.files:
        assert file.rpartition("/")[0] in text


QUICK = "--steps fast --precision fp32 --device cpu --model model"


def test_a_sampler(house: House) -> None:
    house.add(
        "diffusion/leap.py",
        '''
"""One leap: the data as the first timestep shows it."""

from unclip.diffusion.prediction import at_least_float32


def leap(denoiser, x, schedule, timesteps, noise=None, *, until=-1, callback=None):
    return denoiser(at_least_float32(x), timesteps[:1].expand(len(x))).x0
''',
    )
    house.row(
        "diffusion/registry.py", '    "ddpm": SamplerRow(',
        '    "leap": SamplerRow("unclip.diffusion.leap:leap", "trailing"),\n',
    )  # fmt: skip
    house.run(f"""
assert "leap" in command("generate --help")
command('generate "a red star" --sampler leap {QUICK} -o made.png')
assert note("made.png")["sampler"] == "leap"
assert "--sampler leap" in command("info made.png")
pipe = unclip.Pipeline.from_pretrained("model", dtype="fp32", device="cpu")
one = pipe("a red star", sampler="leap", steps="fast", output_type="np").images
from PIL import Image
import numpy as np
assert np.abs(np.asarray(Image.open("made.png")) / 255 - one[0]).max() < 0.01
other = pipe("a red star", sampler="ddim", steps="fast", output_type="np").images
assert np.abs(one - other).max() > 0.01
""")
    promised("A sampler", house)


def test_a_knob(house: House) -> None:
    house.row(
        "pipeline/settings.py", "    resamples: Resamples | None = knob(",
        '    sharpness: Probability | None = knob("Sharpness of nothing", "decoder")\n',
    )  # fmt: skip
    house.run(f"""
assert "--sharpness X" in command("generate --help")
assert "--sharpness X" in command("vary --help")
command('generate "a red star" --sharpness 0.5 {QUICK} -o made.png')
assert note("made.png")["sharpness"] == 0.5
assert "--sharpness 0.5" in command("info made.png")
pipe = unclip.Pipeline.from_pretrained("model", dtype="fp32", device="cpu")
pipe("a red star", sharpness=0.25, steps="fast")
from unclip.pipeline.knobs import json_schema
schema = json_schema(unclip.Settings)["properties"]["sharpness"]
assert "maximum" in repr(schema), schema
try:
    unclip.Settings(sharpness=2)
except ValueError as error:
    assert "sharpness" in str(error)
else:
    raise AssertionError("2 is no probability")
assert main(["generate", "a red star", "--sharpness", "2"]) == 2
""")
    promised("A knob", house)


PRIOR = '''
"""An embedding that is the caption's own, turned by one matrix."""

from dataclasses import dataclass

import torch
from torch import nn

from unclip.config import Checked, Positive
from unclip.networks.echo import Echo
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import StageSpec


@dataclass(frozen=True)
class EchoSettings(Checked):
    scale: Positive = 1.0


class EchoPrior:
    KIND = "echo"
    COMPONENTS = {"echo": ("Echo",)}

    def __init__(self, network, clip):
        self.network, self.clip = network, clip

    @classmethod
    def load(cls, folder, clip, dtype=None):
        return cls(folder.load("echo", Echo, clip.width, dtype), clip)

    def loss(self, batch, generator):
        z_i, z_t = self.clip.image(batch["images"]), self.clip.text(batch["captions"]).z_t
        return {"loss": (self.network(z_t) - z_i).square().mean()}

    def preview(self, batch, generator):
        return None

    def steps_for(self, sampling):
        return 1

    @torch.no_grad()
    def sample(self, text, sampling, noise, null=None, callback=None, candidates=None):
        return self.network(text.z_t)

    def save(self, folder):
        folder.save("echo", ("unclip", "Echo"), {"config.json": {}}, self.network.state_dict())


def _build(settings, context):
    clip = context.clip()
    network = Echo(clip.width)
    nn.init.constant_(network.turn.weight, settings.scale)
    return EchoPrior(network, clip)


SPEC = StageSpec(
    "echo-prior",
    Recipe(EchoSettings(), Data(), Training(batch_size=4, steps=2, preview_every=0), Optimiser()),
    EchoPrior.COMPONENTS,
    _build,
)
'''
WORLD = "--data emoji:shapes --data.size 32 --data.workers 0 --training.precision fp32"


def test_a_prior(house: House) -> None:
    house.add(
        "networks/echo.py",
        '''
"""One matrix."""

from torch import nn


class Echo(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.turn = nn.Linear(width, width, bias=False)

    def forward(self, z):
        return self.turn(z.to(self.turn.weight.dtype))
''',
    )
    house.add("stages/echo_prior.py", PRIOR)
    house.row(
        "stages/catalogue.py", '        "decoder": Row(',
        '        "echo-prior": Row(\n            "unclip.stages.echo_prior:SPEC", "echo",'
        ' "unclip.stages.echo_prior:EchoPrior"\n        ),\n',
    )  # fmt: skip
    house.run(f"""
assert "--network.scale" in command("train echo-prior --help")
Path("echo.toml").write_text('stage = "echo-prior"\\n[network]\\nscale = 0.01\\n')
command("train echo-prior --model model --recipe echo.toml {WORLD}")
assert "echo" in command("generate --help")
command('generate "a red star" --prior echo {QUICK} -o made.png')
assert note("made.png")["prior"] == "echo"
pipe = unclip.Pipeline.from_pretrained("model", dtype="fp32", device="cpu")
made = [pipe("a red star", prior=name, steps="fast", output_type="np").images
        for name in ("echo", "diffusion")]
assert (made[0] != made[1]).any()
pipe.save_pretrained("again")
assert unclip.Pipeline.from_pretrained("again")("a star", prior="echo", steps="fast").images
""")
    promised("A stage, or another prior", house)


def test_a_stage(house: House) -> None:
    house.add(
        "stages/average.py",
        '''
"""The mean colour of images."""

from dataclasses import dataclass

import torch
from torch import nn

from unclip.config import Checked, Width
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import StageSpec


@dataclass(frozen=True)
class AverageSettings(Checked):
    width: Width = 3


class AverageStage:
    def __init__(self, settings):
        self.network = nn.Linear(1, settings.width)

    def loss(self, batch, generator):
        mean = batch["images"].mean(dim=(2, 3))
        return {"loss": (self.network(torch.ones(len(mean), 1)) - mean).square().mean()}

    def preview(self, batch, generator):
        return None

    def save(self, folder):
        files = {"config.json": {}}
        folder.save("average", ("unclip", "Average"), files, self.network.state_dict())


SPEC = StageSpec(
    "average",
    Recipe(AverageSettings(), Data(), Training(batch_size=4, steps=2), Optimiser()),
    {"average": ("Average",)},
    lambda settings, context: AverageStage(settings),
)
''',
    )
    house.row(
        "stages/catalogue.py", '        "decoder": Row(',
        '        "average": Row("unclip.stages.average:SPEC"),\n',
    )  # fmt: skip
    house.run(f"""
assert "average" in command("train --help")
assert "--network.width" in command("train average --help")
train = "train average --model model {WORLD}"
assert "trained parameters   6" in command(train + " --dry-run")
Path("average.toml").write_text('stage = "average"\\n[network]\\nwidth = 1\\n')
assert "average written" in command(train + " --recipe average.toml")
assert "from step 2 to 3" in command("train average --model model --resume --training.steps 3")
assert unclip.Pipeline.from_pretrained("model")  # which has no use for it
""")
    promised("A stage, or another prior", house)


def test_a_format_of_data(house: House) -> None:
    house.add(
        "data/colours.py",
        '''
"""Images of one colour: "colours:red,blue"."""

from itertools import cycle, islice

import torch

from unclip.data.captions import Report

RGB = {"red": (214, 28, 36), "blue": (34, 86, 214)}


class Colours:
    endless = False

    def __init__(self, names, size):
        self.names, self.size = names, size

    def __len__(self):
        return 64

    def __getitem__(self, index):
        name = self.names[index % len(self.names)]
        pixels = torch.tensor(RGB[name], dtype=torch.uint8)[:, None, None]
        return {"image": pixels.expand(3, self.size, self.size).clone(), "caption": f"all {name}"}

    def caption(self, index):
        return self[index]["caption"]

    def captions(self):
        return islice(cycle(f"all {name}" for name in self.names), len(self))

    def check(self, decode=False):
        return "64 images of one colour"

    def fingerprint(self):
        return ",".join(self.names)


def open_format(request):
    names = request.place.split(",")
    if not set(names) <= set(RGB):
        raise ValueError(f"colours are {', '.join(RGB)}")
    return Colours(names, request.size)
''',
    )
    house.row(
        "data/registry.py", '    "emoji": Format(\n',
        '    "colours": Format("unclip.data.colours:open_format", "colours:NAME,NAME"),\n',
    )  # fmt: skip
    house.run("""
words = "--model mine --data.size 32 --data.workers 1 --training.steps 2 --training.batch-size 4"
network = "--network.size tiny --network.vocab-size 560 --network.context-length 24"
said = command(f"train clip --data colours:red,blue {words} {network}")
assert "64 images of one colour" in said
Path("prior.toml").write_text('stage = "prior"\\n[data]\\nsource = "colours:blue"\\n'
    "[network]\\nnum_layers = 1\\nnum_attention_heads = 1\\nstatistics = 8\\n")
command(f"train prior --recipe prior.toml {words}")
assert "text → image" in command("evaluate clip --model mine --data colours:red,blue -n 8")
assert main(["train", "prior", "--model", "mine", "--overwrite", "--data", "colours:grey"]) == 2
""")
    promised("A data source", house)


def test_an_evaluation(house: House) -> None:
    house.add(
        "interfaces/cli/evaluations/brightness.py",
        '''
"""`unclip evaluate brightness`: how bright images are."""

from dataclasses import dataclass

from unclip.interfaces.cli.evaluations.shared import Measuring, generator, tell
from unclip.interfaces.cli.options import PromptOptions, parse


@dataclass(frozen=True, kw_only=True)
class Brightness(Measuring, PromptOptions):
    """Brightness of images for one caption."""

    n: int = 2


def run(arguments):
    options = parse(Brightness, "evaluate brightness", arguments)
    made = generator(options.open(), options.settings(), 2, print)(["a red star"] * options.n, 0)
    mean = float(made.mean())
    tell([("brightness", f"{mean:.3f}")], {"brightness": mean}, options.output)
    return 0
''',
    )
    house.row(
        "interfaces/cli/commands/evaluate.py", '    "fid": (',
        '    "brightness": ("how bright images are", "brightness"),\n',
    )  # fmt: skip
    house.run(f"""
import json
assert "how bright images are" in command("evaluate --help")
assert "--n N" in command("evaluate brightness --help")
said = command("evaluate brightness {QUICK} --sampler ddim -o numbers.json")
assert f"{{json.loads(Path('numbers.json').read_text())['brightness']:.3f}}" in said
""")
    promised("An evaluation", house)

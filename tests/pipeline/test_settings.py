"""Knobs: each is written once, and everything that needs to know of it follows."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from tests.interfaces.cli.test_cli import Capture
from unclip import Pipeline, Settings
from unclip.config import Between
from unclip.diffusion.registry import SAMPLERS
from unclip.interfaces.cli import main
from unclip.interfaces.cli.reproduction import command_for
from unclip.outputs.images import read_info
from unclip.pipeline import settings
from unclip.pipeline.knobs import knob, knobs_of
from unclip.pipeline.settings import PRESETS, extend, known, model_says, of_prior, resolve, schema

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> type[Settings]:
    """Settings with one knob more, which nothing else knows of."""
    monkeypatch.setattr(settings, "_known", [Settings])

    @extend
    @dataclass(frozen=True)
    class Sparkling(Settings):
        number_of_sparkles: Annotated[int, Between(1, 9)] | None = knob(
            "Number of sparkles", "decoder", flag="sparkles", preset=True, model=True, inverted=1
        )

    return Sparkling


def test_a_knob_is_written_once(
    extended: type[Settings], tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    # A flag, with help and bounds, of the commands that it concerns.
    for command, has in (("generate", True), ("vary", True), ("upscale", False)):
        assert main([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert ("--sparkles N" in said) is has
        assert ("Number of sparkles. If left out, " in " ".join(said.split())) is has
    assert main(["generate", "a star", "--sparkles", "10"]) == 2
    assert "--sparkles: the value is 10; it must be between 1 and 9" in capsys.readouterr().err
    # A note in the image, and the command that makes it again.
    file, words = tmp_path / "x.png", ["--size", "16", "--decoder-steps", "1", "--prior-steps", "1"]
    model = ["--model", str(tiny_model), "--precision", "fp32", "-o", str(file)]
    assert main(["generate", "a star", "--sparkles", "3", *words, *model]) == 0
    assert read_info(file)["settings"]["number_of_sparkles"] == 3
    assert "--sparkles 3" in command_for(read_info(file))
    # An argument of the pipeline; something that presets, models, latents and schemas say.
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    with pytest.raises(ValueError, match="number_of_sparkles is 10"):
        pipe("a star", number_of_sparkles=10)
    with pytest.raises(ValueError, match="number_of_sparkles is 10"):
        pipe("a star", settings=Settings("fast"), number_of_sparkles=10)
    assert model_says({"number_of_sparkles": 2}, "here") == {"number_of_sparkles": 2}
    row, says = {"steps": 1, "number_of_sparkles": 5}, {"number_of_sparkles": 2}
    assert resolve("decoder", extended(), row, says)["number_of_sparkles"] == 5
    assert vars(extended().for_reconstruction(9))["number_of_sparkles"] == 1
    assert schema()["properties"]["number_of_sparkles"]["anyOf"][0]["maximum"] == 9


def test_the_first_that_says_it_wins() -> None:
    row, model = {"steps": 9, "sampler": "dpm++", "eta": 0.5}, {"sampler": "ddim", "eta": 1.0}
    model["decoder_guidance_scale"] = 3.0
    found = resolve("decoder", Settings(), row, model)
    assert found.pop("preset") == "default"
    assert found == {"steps": 9, "sampler": "dpm++", "eta": 0.5, "guidance_scale": 3.0}
    found = resolve("decoder", Settings(eta=0.25, decoder_guidance_scale=0.0), row, model)
    assert (found["eta"], found["guidance_scale"]) == (0.25, 0.0)
    # A preset's η is its sampler's.
    assert resolve("decoder", Settings(sampler="ddpm"), row, model)["eta"] == 1.0
    assert "steps" not in resolve("super_res", Settings(decoder_num_inference_steps=3), {}, {})


def test_a_model_says_it_of_each_prior() -> None:
    said = {"prior_guidance_scale": 4.0, "autoregressive_prior_guidance_scale": 2.0, "eta": 1.0}
    assert model_says(said, "here") == said
    assert of_prior(said, "diffusion")["prior_guidance_scale"] == 4.0
    assert of_prior(said, "autoregressive") == {"prior_guidance_scale": 2.0, "eta": 1.0}
    del said["autoregressive_prior_guidance_scale"]
    assert of_prior(said, "autoregressive") == {"eta": 1.0}
    for wrong in ({"size": 64}, {"autoregressive_eta": 1.0}, {"autoregressive_prior": "x"}):
        with pytest.raises(ValueError, match="here: unknown key"):
            model_says(wrong, "here")


def test_names_are_those_of_the_tables() -> None:
    assert knobs_of(Settings)["sampler"].choices is SAMPLERS
    assert knobs_of(Settings)["steps"].choices is PRESETS


VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.5, 2**15, 2**15 + 1, 65_536, 65_537, 1000, 1000.5, 1024, 1025),
    *("", "ddim", "fast", "euler", "branches", "diffusion", "x" * 500),
    *([], [0, 1], [0.5, 2], [-1, 1], [1], [0, 1, 2], ["a", "b"], {}, {"a": 1}),
)


def valid(value: Any, wanted: dict[str, Any]) -> bool:
    """JSON Schema, draft 2020-12, as far as schemas of knobs go."""
    if "anyOf" in wanted:
        return any(valid(value, one) for one in wanted["anyOf"])
    if "enum" in wanted:
        return value in wanted["enum"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = {
        "null": value is None,
        "integer": number and isinstance(value, int),
        "number": number,
        "string": isinstance(value, str),
        "array": isinstance(value, list),
    }[wanted["type"]]
    if not right:
        return False
    if wanted["type"] == "array":
        if "prefixItems" not in wanted:
            fits = wanted["minItems"] <= len(value) <= wanted["maxItems"]
            return fits and all(valid(one, wanted["items"]) for one in value)
        items, least = wanted["prefixItems"], wanted["minItems"]
        assert wanted["items"] is False
        return least <= len(value) <= len(items) and all(map(valid, value, items))
    low, high = wanted.get("minimum", -math.inf), wanted.get("maximum", math.inf)
    return wanted["type"] not in ("integer", "number") or low <= value <= high


@pytest.mark.parametrize("name", list(knobs_of(Settings)))
def test_the_schema_takes_what_settings_take(name: str) -> None:
    wanted = schema()["properties"][name]
    assert wanted["description"].endswith(".")
    taken = []
    for value in VALUES:
        try:
            Settings(**{name: value})
            taken.append(True)
        except ValueError:
            taken.append(False)
    assert taken == [valid(value, wanted) for value in VALUES]
    assert any(taken)
    assert not all(taken)
    assert schema()["additionalProperties"] is False
    assert valid(Settings.__dataclass_fields__[name].default, wanted)


def test_help_begins_with_a_noun_and_ends_without_a_full_stop() -> None:
    for name, one in knobs_of(Settings).items():
        assert one.help[0].isupper(), name
        assert not one.help.endswith("."), name


def test_the_table_in_the_documentation_is_as_the_knobs_are() -> None:
    text = (DOCS / "sampling.md").read_text()
    assert settings.with_table(text) == text, "run `make knobs`"


def test_only_a_subclass_of_what_is_known_extends_it() -> None:
    class Other(Settings):
        pass

    for wrong in (3, dict, Settings()):
        with pytest.raises(ValueError, match="must be a subclass of"):
            extend(wrong)  # type: ignore[type-var]
    before = known()
    assert extend(Other) is Other is known()
    with pytest.raises(ValueError, match="must be a subclass of Other"):
        extend(Settings)
    settings._known.remove(Other)
    assert known() is before

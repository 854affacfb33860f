"""Every configuration of the package: numbers have bounds, and what is outside is one sentence."""

import dataclasses
import importlib
import json
import math
import pkgutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch

import unclip
from unclip.config import Also, Between, Checked, from_mapping
from unclip.data.world.scene import WorldConfig
from unclip.diffusion.schedules import DiffusionConfig
from unclip.evaluation.judge.network import JudgeConfig
from unclip.files import read_json
from unclip.networks.autoregressive_prior import AutoregressivePriorConfig
from unclip.networks.clip_config import CLIPTextConfig, CLIPVisionConfig
from unclip.networks.decoder import TextProjectionConfig
from unclip.networks.diffusion_prior import DiffusionPriorConfig
from unclip.networks.preprocessing import ImageProcessorConfig
from unclip.networks.unet_config import UNetConfig
from unclip.stages.catalogue import STAGES
from unclip.stages.recipe import Data, Optimiser, Training
from unclip.storage.folder import bundled


def configurations() -> list[type[Checked]]:
    """All that are defined anywhere in the package."""
    for module in pkgutil.walk_packages(unclip.__path__, "unclip."):
        importlib.import_module(module.name)
    found = {kind for kind in _descendants(Checked) if dataclasses.is_dataclass(kind)}
    return sorted((kind for kind in found if kind.__module__.startswith("unclip.")), key=str)


def _descendants(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def unbounded(hint: Any, where: str) -> list[str]:
    """The numbers in an annotation that have no bounds, and lists without a length."""
    if typing.get_origin(hint) is Annotated:
        inner, *notes = typing.get_args(hint)
        if any(isinstance(note, Also) for note in notes):
            return unbounded(inner, where)
        assert any(isinstance(note, Between) for note in notes), where
        return [] if inner in (int, float) else unbounded(typing.get_args(inner)[0], where)
    if hint in (int, float):
        return [where]
    return [found for inner in typing.get_args(hint) for found in unbounded(inner, where)]


@pytest.mark.parametrize("config", configurations(), ids=lambda config: config.__name__)
def test_every_number_has_bounds(config: type[Checked]) -> None:
    hints = typing.get_type_hints(config, include_extras=True)
    fields = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    assert not [x for name in fields for x in unbounded(hints[name], f"{config.__name__}.{name}")]


def test_what_files_and_recipes_hold_is_checked() -> None:
    """A class that is read from a file, or is a part of a recipe, and not `Checked` is found."""
    known = set(configurations())
    parts = [part for spec in STAGES.values() for part in vars(spec.recipe).values()]
    assert {type(part) for part in parts} <= known
    assert {WorldConfig, DiffusionConfig, JudgeConfig, ImageProcessorConfig, UNetConfig} <= known
    named = {
        item
        for module in pkgutil.walk_packages(unclip.__path__, "unclip.")
        for item in vars(importlib.import_module(module.name)).values()
        if dataclasses.is_dataclass(item) and isinstance(item, type)
        if item.__name__.endswith(("Config", "Settings", "Note", "_Defaults"))
    }
    elsewhere = {"Settings"}  # of a request: checked where it is asked for
    assert {item.__name__ for item in named - known} <= elsewhere


BAD: list[Any] = [
    None, True, -1, 0, math.inf, math.nan, 1e10, 10**10, 2**63, 10**400, 0.5, "x", [], {}, [1, 2],
    [None], "y" * 100_000, "\ud800\x1b[31m", ["z" * 100] * 100, {"a": {"b": []}}, [[[[]]]],
]  # fmt: skip
MODEL = bundled("model")
READERS: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "text_encoder/config.json": CLIPTextConfig.from_json,
    "image_encoder/config.json": CLIPVisionConfig.from_json,
    "feature_extractor/preprocessor_config.json": ImageProcessorConfig.from_json,
    "prior/config.json": DiffusionPriorConfig.from_json,
    "autoregressive_prior/config.json": AutoregressivePriorConfig.from_json,
    "text_proj/config.json": TextProjectionConfig.from_json,
    "decoder/config.json": UNetConfig.from_json,
    "super_res_first/config.json": UNetConfig.from_json,
    "../judge/config.json": JudgeConfig.from_json,
    "decoder_scheduler/scheduler_config.json": lambda mapping, where: from_mapping(
        DiffusionConfig, {k: v for k, v in mapping.items() if not k.startswith("_")}, where
    ),
}


@pytest.mark.parametrize("file", READERS)
def test_every_key_of_a_model_folder_takes_any_value_or_says_what_it_is(file: str) -> None:
    good = read_json(MODEL / file)
    if file == "decoder/config.json":  # and what a student's has beyond
        good["time_cond_proj_dim"] = 64
    READERS[file](good, "here")
    for key in good:
        for value in BAD:
            try:
                READERS[file]({**good, key: value}, "here")
            except ValueError as error:
                sentence = str(error)
                assert sentence.startswith("here: "), (key, sentence[:200])
                assert len(sentence) < 600, (key, sentence[:200])
                assert sentence.isprintable(), (key, sentence[:200])


def test_numbers_of_every_library_are_taken_where_a_class_is_built() -> None:
    training = Training(steps=np.int64(3), batch_size=torch.tensor(4), ema=np.float32(0.5))  # type: ignore[arg-type]
    assert (training.steps, training.batch_size, training.ema) == (3, 4, 0.5)
    assert [type(x) for x in (training.steps, training.batch_size, training.ema)] == [
        int, int, float
    ]  # fmt: skip
    assert WorldConfig(shapes=["star"]).shapes == ("star",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Data(workers=100_000), "workers is 100000; it must be between 0 and 256"),
        (lambda: Data(size=2**20), "size is 1048576; it must be between 8 and 4,096"),
        (lambda: Data(world=3), "world is 3; it must be a table of keys"),  # type: ignore[arg-type]
        (lambda: Training(batch_size=10**9), "batch_size is 1000000000; it must be between 1 and"),
        (lambda: Training(steps=0), "steps is 0; it must be between 1 and 1,000,000,000"),
        (lambda: Training(precision="fp8"), "precision is 'fp8'; it must be one of"),  # type: ignore[arg-type]
        (lambda: Optimiser(learning_rate=10**400), "learning_rate is .*; it must be a finite"),
        (lambda: Optimiser(eps="1"), "eps is '1'; it must be a number"),  # type: ignore[arg-type]
        (lambda: CLIPTextConfig(num_hidden_layers=10**9), "num_hidden_layers is 1000000000; it"),
        (lambda: CLIPTextConfig(vocab_size=2**63), "vocab_size is 9223372036854775808; it must be"),
        (lambda: DiffusionConfig(10**9), "num_train_timesteps is 1000000000; it must be between"),
        (lambda: JudgeConfig(widths=(8, 8, 10**10)), "widths is 10000000000; it must be between"),
    ],
)
def test_what_is_out_of_bounds(build: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()


def test_a_level_that_nobody_could_attend_to() -> None:
    decoder = read_json(MODEL / "decoder" / "config.json")
    with pytest.raises(ValueError, match="a level with attention 1024 pixels a side; at most 256"):
        UNetConfig.from_json({**decoder, "sample_size": 2048}, "here")


def test_nested_without_end(tmp_path: Path) -> None:
    from unclip.config import read_toml

    deep = "[" * 100_000
    for name, text in (("a.toml", f"a = {deep}"), ("b.toml", "a" + ".a" * 50_000 + " = 1")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="is not a TOML file"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(ValueError, match="a line that nests more than 200 tables"):
        read_toml(tmp_path / "b.toml")
    (tmp_path / "c.json").write_text(deep)
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_json(tmp_path / "c.json")
    (tmp_path / "d.json").write_text(json.dumps({"a": "x" * 2**20}))
    with pytest.raises(ValueError, match="larger than 1,048,576 bytes"):
        read_json(tmp_path / "d.json", 2**20)

"""docs/from_diffusers.md: every cell runs, here and with diffusers, with results of one kind."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity.published import CASES, oracle, theirs
from unclip import Pipeline

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

DOCUMENT = Path(__file__).parents[2] / "docs" / "from_diffusers.md"
CELL = re.compile(r"\|\s*`(.+?)`\s*\|\s*`(.+?)`\s*\|(.*)\|\s*$")
ROWS = [found.groups() for line in DOCUMENT.read_text("utf-8").splitlines()
        if (found := CELL.match(line))]  # fmt: skip
STEPS = {f"{stage}_num_inference_steps": 2 for stage in ("prior", "decoder", "super_res")}
FASTER = {key: value for key, value in STEPS.items() if "prior" not in key}


def run(code: str, names: dict[str, Any]) -> Any:
    """The value of an expression; None of a statement."""
    try:
        program = compile(code, "from_diffusers.md", "eval")
    except SyntaxError:
        exec(compile(code, "from_diffusers.md", "exec"), names)
        return None
    return eval(program, names)


def like(value: Any) -> Any:
    """What must be the same there and here."""
    if isinstance(value, tuple | list):
        return type(value), [like(one) for one in value]
    if isinstance(value, Image.Image):
        return Image.Image, value.mode
    if isinstance(value, np.ndarray | torch.Tensor):
        return type(value), value.ndim, len(value), bool((value.min() >= -1) and (value.max() <= 1))
    return None


def watch(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
    return {"latents": state["latents"]}


def stop(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
    pipe._interrupt = True
    return {}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both columns know."""
    place = tmp_path_factory.mktemp("models")
    theirs(CASES[0], place / "t").save_pretrained(place / "model")
    width, small, large = CASES[0].clip[0], *CASES[0].sizes
    random = torch.Generator().manual_seed(0)
    return {
        "torch": torch, "np": np, "Pipeline": Pipeline, "folder": place / "model", "watch": watch,
        "stop": stop, "quick": STEPS, "faster": FASTER, "few": {"num_inference_steps": 2},
        "image": Image.new("RGB", (20, 16), (200, 30, 30)),
        "z": torch.randn(1, width, generator=random),
        "x": torch.randn(1, 3, small, small, generator=random),
        "y": torch.randn(1, 3, large, large, generator=random),
        **{n: getattr(diffusers, n) for n in ("DiffusionPipeline", "DDIMScheduler")},
        "UnCLIPPipeline": oracle().unclip.UnCLIPPipeline,
        "VaeImageProcessor": diffusers.image_processor.VaeImageProcessor,
    }  # fmt: skip


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("theirs")
    variation = theirs(CASES[0], place / "t", "UnCLIPImageVariationPipeline")
    pipe = theirs(CASES[0], place / "t")
    pipe.push_to_hub = lambda *_, **__: ""
    return {"pipe": pipe, "variation": variation, "sd": stable_diffusion(pipe), "place": place}


@pytest.fixture(scope="module")
def here(names: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("ours")
    pipe = Pipeline.from_pretrained(names["folder"], dtype="fp32", device="cpu")
    variation = theirs(CASES[0], place / "t", "UnCLIPImageVariationPipeline")
    variation.save_pretrained(place / "variation")
    varies = Pipeline.from_pretrained(place / "variation", dtype="fp32", device="cpu")
    return {"pipe": pipe, "varies": varies, "sd": pipe, "place": place / "saved"}


def stable_diffusion(pipe: Any) -> Any:
    """A tiny one, which stands for diffusers' other pipelines."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=24,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=pipe.text_encoder.config.vocab_size, hidden_size=24, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=pipe.tokenizer.model_max_length,
    ))  # fmt: skip
    made = diffusers.StableDiffusionPipeline(
        vae,
        text,
        pipe.tokenizer,
        unet,
        diffusers.DDIMScheduler(),
        None,
        None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_the_table_is_read() -> None:
    lines = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert len(ROWS) == len(lines) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row(
    row: tuple[str, str, str], names: Any, there: Any, here: Any,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unclip.pipeline.diffusers_api.upload", lambda *_: "https://a.commit")
    code, ours, note = row
    mine = names | here
    if "pipe.vary" in ours or "decode_embeddings" in ours:
        mine["pipe"] = here["varies"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = run(ours, dict(mine))
        if "refused" in note:
            with pytest.raises(ValueError, match=" ") as caught:
                run(code.replace("from_config(sd.scheduler.config)", "from_config({})"), dict(mine))
            assert "\n" not in str(caught.value)
        if "offload" not in code:  # which wants a GPU there
            theirs = run(code, names | there)
    if "refused" not in note and like(theirs) is not None:
        assert like(made) == like(theirs)

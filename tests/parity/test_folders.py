"""Every form in which diffusers and transformers write a folder: opened, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.published import CAPTIONS, CASES, Case, oracle, theirs, tokens
from unclip import Pipeline
from unclip.storage.weights import weight_files

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

VARIATION = "UnCLIPImageVariationPipeline"
STEPS = {f"{stage}_num_inference_steps": 3 for stage in ("prior", "decoder", "super_res")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return theirs(CASES[0], tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def plain(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plain"
    source.save_pretrained(path)
    return path


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def opened(folder: Path, **more: Any) -> Pipeline:
    return Pipeline.from_pretrained(folder, dtype="fp32", device="cpu", **more)


def image(pipe: Pipeline) -> torch.Tensor:
    made: torch.Tensor = pipe(CAPTIONS[1], output_type="tensor", **STEPS).images
    return made


def edit(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


# ---- opened ---------------------------------------------------------------------------------


def test_a_folder_that_says_no_number_of_candidates_means_one(plain: Path) -> None:
    pipe = opened(plain)
    assert pipe.prior is not None
    assert pipe.prior.settings.candidates == 1
    published = {"prior_guidance_scale": 4.0, "decoder_guidance_scale": 8.0}
    published |= {"sampler": "ddpm", "eta": 0.0}
    assert pipe.defaults == published


@pytest.mark.parametrize("form", [{"max_shard_size": "4KB"}, {"variant": "fp16"}])
def test_shards_and_variants(
    form: dict[str, str], source: Any, plain: Path, tmp_path: Path
) -> None:
    source.save_pretrained(tmp_path / "model", **form)
    assert (len(weight_files(tmp_path / "model" / "prior", form.get("variant"))) > 1) == (
        "max_shard_size" in form
    )
    pipe, whole = opened(tmp_path / "model", variant=form.get("variant")), opened(plain)
    assert pipe.prior is not None
    assert whole.prior is not None
    state = whole.prior.network.state_dict()
    for key, value in pipe.prior.network.state_dict().items():
        assert torch.equal(value, state[key])
    # Not to the last bit: tensors lie at other addresses, and kernels mind their alignment.
    torch.testing.assert_close(image(pipe), image(whole), atol=1e-4, rtol=0)


def test_a_variant_beside_the_plain_weights(copy: Path) -> None:
    """Half precision in shards, of the U-Net alone; everything else gives its plain weights."""
    unet = oracle().diffusers.UNet2DConditionModel.from_pretrained(copy / "decoder")
    unet.half().save_pretrained(copy / "decoder", variant="fp16", max_shard_size="10KB")
    assert len(list((copy / "decoder").glob("*.fp16-*.safetensors"))) > 1
    half, full = opened(copy, variant="fp16"), opened(copy)
    for key, value in full.decoder.network.decoder.state_dict().items():
        rounded = half.decoder.network.decoder.state_dict()[key]
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, value.half().float())
    assert 0 < (image(half) - image(full)).abs().max() < 0.5
    with pytest.raises(ValueError, match="has no weights of the variant 'bf16'"):
        opened(copy, variant="bf16")


def test_only_a_variant(copy: Path) -> None:
    file = copy / "decoder" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(ValueError, match="holds weights of the variant fp16 only; ask for it"):
        opened(copy)
    opened(copy, variant="fp16")


def aged(folder: Path) -> None:
    """As in 2022: vocabulary and merges, few keys, whole numbers, CLIP's configs in full."""
    shutil.rmtree(folder / "tokenizer")
    tokens().save_pretrained(folder / "tokenizer")
    words = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    words["unk_token"] = "<|endoftext|>"
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CASES[0].context, **words}
    write(folder / "tokenizer" / "tokenizer_config.json", config | {"pad_token": "<|endoftext|>"})
    write(folder / "tokenizer" / "special_tokens_map.json", words | {"pad_token": "!"})
    edit(
        folder / "prior_scheduler" / "scheduler_config.json",
        _diffusers_version="0.11.0", clip_sample_range=5, beta_schedule=...,
    )  # fmt: skip
    for name in ("decoder", "super_res_first", "super_res_last"):
        later = ("dropout", "mid_block_type") if name != "decoder" else ("addition_embed_type",)
        edit(folder / name / "config.json", **dict.fromkeys(later, ...), _name_or_path="./karlo")
    edit(
        folder / "text_encoder" / "config.json",
        dtype=..., torch_dtype="float32", transformers_version="4.25.1", dropout=0.0,
        _name_or_path="openai/clip-vit-large-patch14",
    )  # fmt: skip
    file = folder / "text_encoder" / "model.safetensors"
    positions = torch.arange(CASES[0].context)[None]
    tensors = {"text_model.embeddings.position_ids": positions, **load_file(file)}
    save_file(tensors, file, {"format": "pt"})
    index = folder / "model_index.json"
    edit(index, text_proj=["unclip", "UnCLIPTextProjModel"], _diffusers_version="0.11.0")


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def test_an_old_folder(copy: Path, plain: Path) -> None:
    assert json.loads((plain / "model_index.json").read_text())["text_proj"][0] == "diffusers"
    assert (plain / "tokenizer" / "tokenizer.json").is_file()
    aged(copy)
    old, new = opened(copy), opened(plain)
    torch.testing.assert_close(image(old), image(new), atol=1e-4, rtol=0)
    texts = ["hello! a cat!!", "!", "the end <|endoftext|> !"]
    lib = oracle().transformers.CLIPTokenizer.from_pretrained(copy / "tokenizer")
    expected = lib(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(old.clip.tokenizer(texts).ids, expected)
    assert torch.equal(new.clip.tokenizer(texts).ids, expected)


# ---- refused --------------------------------------------------------------------------------


def index(folder: Path, **entries: Any) -> None:
    edit(folder / "model_index.json", **entries)


def shrink(folder: Path) -> None:
    file = folder / "super_res_last" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def overlap(folder: Path) -> None:
    file = folder / "prior" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def twice(folder: Path) -> None:
    place = folder / "prior"
    file = place / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        save_file(tensors, place / name)
    keys = list(tensors)
    weight_map = {key: names[i % 2] for i, key in enumerate(keys)}
    write(place / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": weight_map})


def pickles(folder: Path) -> None:
    file = folder / "decoder" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def other_shape(folder: Path) -> None:
    file = folder / "super_res_first" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"conv_in.weight": torch.zeros(8, 5, 3, 3)}, file)


def foreign_part(component: str, case: Case) -> Callable[[Path], None]:
    """A component of another model, whole in itself."""

    def replace(folder: Path) -> None:
        theirs(case, folder.parent / "t").save_pretrained(folder.parent / "other")
        shutil.rmtree(folder / component)
        shutil.copytree(folder.parent / "other" / component, folder / component)

    return replace


def remove(*names: str) -> Callable[[Path], None]:
    def away(folder: Path) -> None:
        path = folder.joinpath(*names)
        path.unlink() if path.is_file() else shutil.rmtree(path)

    return away


def config(component: str, **changes: Any) -> Callable[[Path], None]:
    name = "scheduler_config.json" if component.endswith("scheduler") else "config.json"
    return lambda folder: edit(folder / component / name, **changes)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove("prior"), "has no prior"),
        (remove("super_res_scheduler"), "has no super_res_scheduler"),
        (remove("tokenizer", "tokenizer.json"), "holds no tokenizer"),
        (remove("text_proj", "config.json"), r"holds no config\.json"),
        (remove("decoder", "diffusion_pytorch_model.safetensors"), "holds no safetensors weights"),
        (pickles, "a pickle, which can run code.*convert it to safetensors"),
        (shrink, "super_res_last.*is not a whole safetensors file"),
        (overlap, "prior.*is not a whole safetensors file"),
        (twice, "has the tensor .* a second time"),
        (other_shape, r"'conv_in\.weight' has shape \(8, 5, 3, 3\).*asks for \(8, 6, 3, 3\)"),
        (lambda f: index(f, _class_name="StableUnCLIPPipeline"), "is a 'StableUnCLIPPipeline'"),
        (lambda f: index(f, _class_name=...), "is no pipeline; what can be opened"),
        (lambda f: index(f, **{"../x": ["diffusers", "UNet2DModel"]}), "'../x', which"),
        (lambda f: index(f, prior="here"), "has no prior"),
        (lambda f: index(f, prior=["diffusers"]), r"must be \[library, class\]"),
        (lambda f: index(f, prior=["diffusers", "T5"]), "prior is a 'T5'; only PriorTransformer"),
        (config("prior", wings=2), "unknown key 'wings'"),
        (config("text_encoder", wings=2), "unknown key 'wings'"),
        (config("decoder_scheduler", wings=2), "unknown key 'wings'"),
        (config("decoder_scheduler", _class_name="DDIMScheduler"), "is a 'DDIMScheduler'"),
        (config("decoder_scheduler", variance_type="fixed_small_log"), "need 3 and 3"),
        (config("super_res_scheduler", variance_type="learned_range"), "need 6 and 6"),
        (config("super_res_last", sample_size=32), "super_res_first makes 16 pixels and"),
        (foreign_part("prior", CASES[3]), r"prior makes embeddings of width 32.*width 24"),
        (foreign_part("text_proj", CASES[1]), r"width 16.*width 24"),
        (foreign_part("decoder", CASES[7]), r"text_proj has cross_attention_dim 12.*decoder 10"),
        (lambda f: index(f, _prior_num_candidates=0), "_prior_num_candidates is 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit(damage: Callable[[Path], None], says: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=says) as caught:
        opened(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_an_image_tower_of_another_width(tmp_path: Path) -> None:
    """Variations whose z_i the decoder was not made for."""
    for name, case in (("model", CASES[0]), ("other", CASES[1])):
        theirs(case, tmp_path / "t", VARIATION).save_pretrained(tmp_path / name)
    shutil.rmtree(tmp_path / "model" / "image_encoder")
    shutil.copytree(tmp_path / "other" / "image_encoder", tmp_path / "model" / "image_encoder")
    with pytest.raises(ValueError, match=r"image encoder's embeddings .* 16,.* 24"):
        opened(tmp_path / "model")

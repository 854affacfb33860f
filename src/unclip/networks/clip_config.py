"""CLIP's sizes: the keys of a tower's config.json, and a table of presets."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, Self

from unclip.checks import shown
from unclip.config import (
    Between,
    Checked,
    Heads,
    Layers,
    Positive,
    Side,
    Tokens,
    Width,
    from_mapping,
    suggest,
)
from unclip.tokenizer import MAX_VOCABULARY

Activation = Literal["quick_gelu", "gelu", "gelu_new"]
Hidden = Annotated[int, Between(1, 2**18)]
LogScale = Annotated[float, Between(-20, 20)]
LogitBias = Annotated[float, Between(-1000, 1000)]
_START = math.log(1 / 0.07)
# A key that only steers how the publishing library builds or trains the network.
_IGNORED = {
    "add_cross_attention", "architectures", "attention_dropout", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "dropout", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_factor",
    "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "length_penalty",
    "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "prefix", "problem_type", "pruned_heads",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "text_config_dict",
    "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k",
    "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16",
    "vision_config_dict",
}  # fmt: skip


@dataclass(frozen=True)
class CLIPTextConfig(Checked):
    """The keys of a text tower's config.json."""

    vocab_size: Annotated[int, Between(3, MAX_VOCABULARY)] = 49408
    hidden_size: Width = 512
    intermediate_size: Hidden = 2048
    projection_dim: Width = 512
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Tokens = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Positive = 1e-5
    # 2: OpenAI's folders, pooled at the argmax of the ids
    eos_token_id: Annotated[int, Between(1, MAX_VOCABULARY)] = 2
    logit_scale_init_value: LogScale = _START
    # of the sigmoid loss, of a CLIP that was trained by it; None: there is none
    logit_bias_init_value: LogitBias | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads(self)

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], where: str = "config.json") -> Self:
        return from_mapping(cls, _known(cls, mapping, "text_config", where), where)

    def to_json(self) -> dict[str, Any]:
        header = {"architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model"}
        return header | _said(self)


@dataclass(frozen=True)
class CLIPVisionConfig(Checked):
    """The keys of an image tower's config.json."""

    hidden_size: Width = 768
    intermediate_size: Hidden = 3072
    projection_dim: Width = 512
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    num_channels: Annotated[int, Between(3, 3)] = 3  # images are RGB everywhere
    image_size: Side = 224
    patch_size: Side = 32
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Positive = 1e-5
    logit_scale_init_value: LogScale = _START
    logit_bias_init_value: LogitBias | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads(self)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], where: str = "config.json") -> Self:
        return from_mapping(cls, _known(cls, mapping, "vision_config", where), where)

    def to_json(self) -> dict[str, Any]:
        header = {
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
        }
        return header | _said(self)


# name: (image: width, layers, heads, patch, size), (text: width, layers, heads), embedding
_SIZES: dict[str, tuple[tuple[int, int, int, int, int], tuple[int, int, int], int]] = {
    "tiny":     ((64,    2,  2,  8,  32), (64,    2,  2),   64),
    "mini":     ((128,   4,  4,  8,  32), (128,   3,  4),  128),
    "small":    ((256,   4,  4,  8,  32), (192,   3,  3),  192),
    "medium":   ((384,   8,  6,  8,  64), (384,   6,  6),  384),
    "large":    ((640,  12, 10, 16, 128), (512,  12,  8),  512),
    "ViT-B/32": ((768,  12, 12, 32, 224), (512,  12,  8),  512),
    "ViT-B/16": ((768,  12, 12, 16, 224), (512,  12,  8),  512),
    "ViT-L/14": ((1024, 24, 16, 14, 224), (768,  12, 12),  768),
    "ViT-H/16": ((1280, 32, 16, 16, 256), (1024, 24, 16), 1024),  # the paper's
}  # fmt: skip
SIZES = tuple(_SIZES)
_ALSO = {"karlo": "ViT-L/14", "paper": "ViT-H/16"}  # the CLIP of that model
CLIP_SIZES = (*SIZES, *_ALSO)
# Those that follow the data: images of any resolution. The others are published ones, which have
# their own.
_FOLLOWING = ("tiny", "mini", "small", "medium", "large")


@dataclass(frozen=True)
class CLIPConfig(Checked):
    """Both towers."""

    text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    vision: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text.projection_dim != self.vision.projection_dim:
            raise ValueError(
                f"the text tower projects to {self.text.projection_dim} dimensions, "
                f"the image tower to {self.vision.projection_dim}"
            )

    @classmethod
    def preset(
        cls,
        size: str,
        vocab_size: int = 49408,
        context_length: int = 77,
        image_size: int | None = None,
    ) -> Self:
        """One of `SIZES`, from tiny (tests) to ViT-H/16, which "paper" is too; "karlo" is ViT-L/14.

        With plain GELU: OpenAI's quick one takes three kernels, and a tenth of the training time.

        Args:
            image_size: pixels of a side of the images that are to be read, which tiny to large
                follow, to a whole number of patches; the published sizes keep their own.
        """
        size = _ALSO.get(size, size)
        if size not in _SIZES:
            raise ValueError(f"unknown CLIP size {shown(size)}{suggest(size, CLIP_SIZES)}")
        (width, layers, heads, patch, image), (t_width, t_layers, t_heads), embed = _SIZES[size]
        if image_size is not None and size in _FOLLOWING:
            image = patch * max(1, round(image_size / patch))
        return cls(
            CLIPTextConfig(
                vocab_size=vocab_size,
                hidden_size=t_width,
                intermediate_size=4 * t_width,
                projection_dim=embed,
                num_hidden_layers=t_layers,
                num_attention_heads=t_heads,
                max_position_embeddings=context_length,
                hidden_act="gelu",
            ),
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                projection_dim=embed,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                image_size=image,
                patch_size=patch,
                hidden_act="gelu",
            ),
        )


def _said(config: CLIPTextConfig | CLIPVisionConfig) -> dict[str, Any]:
    """A tower's fields for its config.json, which has a bias only where there is one."""
    return {key: value for key, value in asdict(config).items() if value is not None}


def _check_heads(config: CLIPTextConfig | CLIPVisionConfig) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is not a multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )


def _known(cls: type, mapping: Mapping[str, Any], inner: str, where: str) -> dict[str, Any]:
    """The fields of `cls` in a tower's own config.json, or in one of a whole CLIP."""
    if inner in mapping:
        if not isinstance(mapping[inner], Mapping):
            raise ValueError(f"{where}: {inner} is {shown(mapping[inner])}; it must be an object")
        values = dict(mapping[inner])
        for key in ("projection_dim", "logit_scale_init_value", "logit_bias_init_value"):
            if key in mapping:
                values[key] = mapping[key]
    else:
        values = dict(mapping)
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    for key in values:
        if key not in fields and key not in _IGNORED and not key.startswith("_"):
            raise ValueError(f"{where}: unknown key {shown(key)} for a CLIP tower")
    return {key: value for key, value in values.items() if key in fields}

"""The decoder's networks, and how they lie in a model folder."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unclip.diffusion.schedules import DiffusionConfig
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.decoder import (
    CaptionTransformer,
    MaskChannels,
    MaskChannelsConfig,
    TextProjection,
    TextProjectionConfig,
    text_projection_config,
)
from unclip.networks.unet import UNet, UNetConfig
from unclip.networks.unet_config import CONDITIONAL, DOWN_ATTENTION, adm_config
from unclip.stages.base import SCHEDULER, ComponentClasses, check_channels
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder.protocols import Pixels, Space
from unclip.stages.decoder.settings import DecoderSettings
from unclip.stages.sizes import size_of
from unclip.stages.warm_start import take
from unclip.storage.folder import ModelFolder

TEXT_ENCODER, MASKS = "decoder_text_encoder", "decoder_masks"
_TWO_WAY = ("unclip", "TextEncoder")  # in the index: no library knows it
COMPONENTS: ComponentClasses = {
    "text_proj": TextProjectionConfig.CLASS_NAMES,
    "decoder": (CONDITIONAL,),
    "decoder_scheduler": SCHEDULER,
}
OPTIONAL: ComponentClasses = {
    TEXT_ENCODER: (_TWO_WAY[1], "CLIPTextModelWithProjection"),  # loading refuses the latter
    MASKS: MaskChannelsConfig.CLASS_NAMES,
}


class DecoderNetwork(nn.Module):
    """The decoder's components: what z_i and the caption become, and the U-Net.

    `text_encoder` is the text Transformer of its own, if it has one. It has the modules of CLIP's,
    but its tokens attend to each other both ways, as those of GLIDE's, whose code masks nothing but
    padding: what is said of the first object can so depend on the words that follow. Its vector is
    read at the end token. `masks` are the mask channels, if it has some: an addition, without which
    the U-Net is the decoder where nothing is known. (In models of before they are inputs of the
    U-Net, which hold ones there.)
    """

    def __init__(
        self,
        decoder: UNet,
        text_proj: TextProjection,
        text_encoder: CaptionTransformer | None = None,
        masks: MaskChannels | None = None,
    ) -> None:
        super().__init__()
        self.decoder, self.text_proj, self.text_encoder = decoder, text_proj, text_encoder
        self.masks: MaskChannels | None = None
        if masks is not None:
            self.add(masks)

    def add(self, masks: MaskChannels) -> None:
        """Have the U-Net see mask channels."""
        self.masks, self.decoder.beside = masks, masks.forward


def build_network(
    settings: DecoderSettings, text: CLIPTextConfig, size: int, space: Space | None = None
) -> DecoderNetwork:
    """Fresh networks for images of `size` pixels a side, and an encoder whose text tower this is.

    Raises:
        ValueError: the size is none that the space has.
    """
    space = space or Pixels()
    if size % space.factor:
        raise ValueError(f"data.size {size} is not a multiple of {space.factor}")
    config = adm_config(
        size // space.factor,
        settings.widths,
        settings.layers,
        in_channels=space.channels,
        out_channels=space.channels * (2 if space.discrete else 1),
        context_width=settings.context_width,
        attend_from=settings.attend_from,
        head_width=settings.head_width,
        groups=settings.groups,
        dropout=settings.dropout,
    )
    text_proj = TextProjection(text_projection_config(config, text.projection_dim))
    network = DecoderNetwork(UNet(config), text_proj)
    if settings.caption_tokens == "own":
        network.text_encoder = CaptionTransformer(_caption_sizes(settings, text))
    if settings.inpainting:
        network.add(fresh_masks(network.decoder.config))
    return network


def fresh_masks(decoder: UNetConfig) -> MaskChannels:
    """Mask channels that have learned nothing."""
    sizes = {"in_channels": decoder.in_channels + 1, "out_channels": decoder.block_out_channels[0]}
    return MaskChannels(MaskChannelsConfig(**sizes))


def _caption_sizes(settings: DecoderSettings, text: CLIPTextConfig) -> CLIPTextConfig:
    """Of the text Transformer of its own, which reads CLIP's tokens."""
    width = settings.text_width
    wide: dict[str, Any] = {"hidden_size": width, "intermediate_size": 4 * width} if width else {}
    return replace(
        text,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads or text.num_attention_heads,
        **wide,
    )


def load_network(
    folder: ModelFolder,
    clip: FrozenCLIP,
    settings: DecoderSettings,
    process: DiffusionConfig,
    dtype: torch.dtype | None = None,
) -> DecoderNetwork:
    """Read `decoder`, `text_proj` and, where the settings say that there is one,
    `decoder_text_encoder` of a model folder."""
    config = UNetConfig.from_json(folder.config("decoder"), str(folder.path / "decoder"))
    projection = TextProjectionConfig.from_json(
        folder.config("text_proj"), str(folder.path / "text_proj")
    )
    if projection.clip_embeddings_dim != clip.width:
        raise ValueError(
            f"{folder.path}: the decoder takes embeddings of width "
            f"{projection.clip_embeddings_dim}, but the text encoder's have width "
            f"{clip.width}: they are not of one model"
        )
    wanted = text_projection_config(config, clip.width)
    for key in ("time_embed_dim", "cross_attention_dim"):
        if getattr(projection, key) != getattr(wanted, key):
            raise ValueError(
                f"{folder.path}: text_proj has {key} {getattr(projection, key)}, the decoder "
                f"{getattr(wanted, key)}: they are not of one model"
            )
    apart = folder.has(MASKS)
    inputs = Pixels.channels if apart else settings.inputs()
    check_channels(config, inputs, process, str(folder.path / "decoder"))
    network = DecoderNetwork(
        folder.load("decoder", UNet, config, dtype),
        folder.load("text_proj", TextProjection, projection, dtype),
    )
    if settings.caption_tokens == "own":
        network.text_encoder = _load_text_encoder(folder, clip, dtype)
    if apart:
        network.add(_load_masks(folder, config, dtype))
    return network


def _load_masks(
    folder: ModelFolder, decoder: UNetConfig, dtype: torch.dtype | None
) -> MaskChannels:
    where = str(folder.path / MASKS)
    config = MaskChannelsConfig.from_json(folder.config(MASKS), where)
    if config != fresh_masks(decoder).config:
        raise ValueError(
            f"{where} has {config.in_channels} channels in and {config.out_channels} out, which do "
            "not fit the decoder: they are not of one model"
        )
    return folder.load(MASKS, MaskChannels, config, dtype, small=True)


def for_another_clip(
    network: DecoderNetwork, text: CLIPTextConfig
) -> tuple[DecoderNetwork, list[str]]:
    """The same U-Net for a CLIP whose text tower this is; what fits it of the other networks is
    taken. The second value names the tensors that are fresh."""
    config = network.decoder.config
    text_proj = TextProjection(text_projection_config(config, text.projection_dim))
    other = DecoderNetwork(network.decoder, text_proj, masks=network.masks)
    if network.text_encoder is not None:
        keys = ("vocab_size", "max_position_embeddings", "projection_dim", "eos_token_id")
        sizes = replace(network.text_encoder.config, **{key: getattr(text, key) for key in keys})
        other.text_encoder = CaptionTransformer(sizes)
    return other, take(other, network)


def _load_text_encoder(
    folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None
) -> CaptionTransformer:
    """The decoder's own text Transformer, which reads the tokens of the folder's CLIP."""
    where = str(folder.path / TEXT_ENCODER)
    if folder.has(TEXT_ENCODER) and folder.index()[TEXT_ENCODER][1] != _TWO_WAY[1]:
        raise ValueError(
            f"{where} was trained by a version of unclip whose own text Transformer read captions "
            "in one direction only; train the decoder anew with --overwrite"
        )
    config = CLIPTextConfig.from_json(folder.config(TEXT_ENCODER), where)
    theirs = clip.text_encoder.config
    for key in ("vocab_size", "max_position_embeddings", "projection_dim"):
        if getattr(config, key) != getattr(theirs, key):
            raise ValueError(
                f"{where} has {key} {getattr(config, key)}, the text encoder "
                f"{getattr(theirs, key)}: they are not of one model"
            )
    return folder.load(TEXT_ENCODER, CaptionTransformer, config, dtype)


def settings_of(
    network: DecoderNetwork, clip: FrozenCLIP, process: DiffusionConfig, noted: DecoderSettings
) -> DecoderSettings:
    """What a folder says of a decoder that it holds.

    No folder notes how it was trained: there the defaults stand, for training it further.
    """
    config = network.decoder.config
    sizes: dict[str, Any] = {
        "widths": config.block_out_channels,
        "layers": config.layers_per_block,
        "head_width": config.attention_head_dim,
        "groups": config.norm_num_groups,
        "context_width": config.cross_attention_dim,
        "dropout": config.dropout,
        "caption_tokens": noted.caption_tokens,
    }
    if network.text_encoder is not None:
        own, theirs = network.text_encoder.config, clip.text_encoder.config
        width, heads = own.hidden_size, own.num_attention_heads
        sizes["text_layers"] = own.num_hidden_layers
        sizes["text_width"] = 0 if width == theirs.hidden_size else width
        sizes["text_heads"] = 0 if heads == theirs.num_attention_heads else heads
    attends = [kind == DOWN_ATTENTION for kind in config.down_block_types]
    return replace(
        noted,
        **sizes,
        attend_from=attends.index(True) if any(attends) else len(attends),
        prediction_type=process.prediction_type,
        size=size_of(DecoderSettings, sizes),
    )


def save_network(folder: ModelFolder, network: DecoderNetwork, process: DiffusionConfig) -> None:
    """decoder, text_proj and, if it has them, decoder_text_encoder and decoder_masks; another's are
    removed."""
    decoder, text_proj, text_encoder = network.decoder, network.text_proj, network.text_encoder
    folder.save(
        "decoder",
        ("diffusers", decoder.config.class_name),
        {"config.json": decoder.config.to_json()},
        _published(decoder, process),
    )
    folder.save(
        "text_proj",
        ("unclip", text_proj.config.class_name),
        {"config.json": text_proj.config.to_json()},
        text_proj.state_dict(),
    )
    if text_encoder is not None:
        folder.save(
            TEXT_ENCODER,
            _TWO_WAY,
            {"config.json": text_encoder.config.to_json()},
            text_encoder.state_dict(),
            stem="model",
        )
    elif folder.has(TEXT_ENCODER):
        folder.remove(TEXT_ENCODER)
    if network.masks is not None:
        folder.save(
            MASKS,
            ("unclip", network.masks.config.class_name),
            {"config.json": network.masks.config.to_json()},
            network.masks.state_dict(),
        )
    elif folder.has(MASKS):
        folder.remove(MASKS)


def _published(network: UNet, process: DiffusionConfig) -> dict[str, Tensor]:
    """Its weights, the untrained variance half of an x_0 predictor a constant: v = 0, β̃."""
    weights = network.state_dict()
    if process.trains_variance or "conv_out.weight" not in weights:
        return weights
    weight, bias = weights["conv_out.weight"].clone(), weights["conv_out.bias"].clone()
    weight[3:], bias[3:] = 0.0, -1.0  # the half holds 2 v - 1
    return weights | {"conv_out.weight": weight, "conv_out.bias": bias}

"""How the decoder is trained."""

import torch
from torch import Tensor

from unclip.diffusion.process import Diffusion
from unclip.networks.clip_config import CLIPTextConfig
from unclip.stages.decoder.network import COMPONENTS, OPTIONAL, DecoderNetwork, build_network
from unclip.stages.decoder.settings import NOTE, DecoderSettings
from unclip.stages.decoder.stage import DecoderStage
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, Probe, StageSpec
from unclip.storage.folder import ModelFolder


def _build(settings: DecoderSettings, context: BuildContext) -> DecoderStage:
    return DecoderStage.build(settings, context.clip(), context.data.size)


def _warm_start(
    settings: DecoderSettings, context: BuildContext, origin: ModelFolder
) -> DecoderStage:
    clip = context.clip_of(origin)
    stage = DecoderStage.load(origin, clip, torch.float32).with_student(None)
    if stage.settings.caption_tokens != settings.caption_tokens:
        raise ValueError(
            f"the decoder of {origin.path} takes caption tokens from "
            f"{stage.settings.caption_tokens!r}; set network.caption_tokens to that"
        )
    if settings.inpainting and not stage.settings.inpainting:
        stage.widen()
    if stage.network.masks is not None and not settings.inpainting:
        stage.drop_masks()
    elif stage.settings.inpainting and not settings.inpainting:
        raise ValueError(
            f"the decoder of {origin.path} has mask channels; add --network.inpainting"
        )
    if context.has_own_clip(origin):
        stage, left = stage.for_clip(context.clip())
        context.say_what_stays("decoder", origin, stage.network, left)
    stage.settings = settings.resized(stage.settings)
    stage.process = Diffusion(stage.process.config, settings.loss)
    context.check_size(stage.size, origin)
    return stage


def _probe(
    network: DecoderNetwork, _: DecoderSettings, text: CLIPTextConfig, size: int, n: int
) -> Tensor:
    side = network.decoder.config.sample_size
    width, length = text.projection_dim, text.max_position_embeddings
    mask = torch.ones(n, length, dtype=torch.bool)
    z_t, hidden = torch.empty(n, width), torch.empty(n, length, width)
    if network.text_encoder is not None:
        z_t, hidden = network.text_encoder(torch.zeros(n, length, dtype=torch.long), mask)
    time_condition, context = network.text_proj(torch.empty(n, width), z_t, hidden)
    predicted: Tensor = network.decoder(
        torch.empty(n, network.decoder.config.in_channels, side, side),
        torch.zeros(n),
        time_condition=time_condition,
        context=context,
        context_mask=network.text_proj.context_mask(mask),
    )
    return predicted.sum()


SPEC = StageSpec(
    "decoder",
    Recipe(
        DecoderSettings(),
        Data(),
        Training(batch_size=64, steps=100_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # paper, table 3
    ),
    COMPONENTS,
    _build,
    _warm_start,
    optional=OPTIONAL,
    network=build_network,
    probe=Probe(_probe),
    notes=(NOTE,),
    sampled_as="decoder",
    embeddings="beside images",
)

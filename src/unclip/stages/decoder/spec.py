"""How the decoder is trained."""

import torch

from unclip.diffusion.process import Diffusion
from unclip.stages.decoder.network import COMPONENTS, OPTIONAL, build_network
from unclip.stages.decoder.settings import NOTE, DecoderSettings
from unclip.stages.decoder.stage import DecoderStage
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, StageSpec
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
    if stage.settings.inpainting and not settings.inpainting:
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
    notes=(NOTE,),
    sampled_as="decoder",
    embeddings="beside images",
)

"""The stages that `unclip train` knows, and their default recipes."""

from typing import Any

from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.stages.diffusion_prior import PriorSettings, PriorStage
from unclip.stages.upsampler import UpsamplerSettings, UpsamplerStage
from unclip.training.recipe import Data, Optimiser, Training
from unclip.training.start import Materials, Recipe, StageSpec

CLIP = StageSpec(
    "clip",
    Recipe(
        ClipSettings(),
        Data(),
        Training(batch_size=256, steps=10_000, ema=0.999),
        # CLIP, table 18 (weight decay, β2, ε); learning rate for small models.
        Optimiser(learning_rate=1e-3, weight_decay=0.2, beta2=0.98, eps=1e-6, decay=1.0),
    ),
    ("text_encoder", "image_encoder", "tokenizer", "feature_extractor"),
    lambda settings, m: ClipStage.build(settings, m.captions(settings.captions)),
)


def _prior(settings: PriorSettings, m: Materials) -> PriorStage:
    return PriorStage.build(settings, FrozenCLIP.load(m.folder).to(m.device), m.batches())


PRIOR = StageSpec(
    "prior",
    Recipe(
        PriorSettings(),
        Data(),
        Training(batch_size=256, steps=10_000),
        # Paper, table 3.
        Optimiser(learning_rate=1.1e-4, weight_decay=0.06, beta2=0.96, eps=1e-6, warmup=500),
    ),
    ("prior", "prior_scheduler"),
    _prior,
)


def _decoder(settings: DecoderSettings, m: Materials) -> DecoderStage:
    return DecoderStage.build(settings, FrozenCLIP.load(m.folder).to(m.device), m.data.size)


DECODER = StageSpec(
    "decoder",
    Recipe(
        DecoderSettings(),
        Data(),
        Training(batch_size=64, steps=100_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # paper, table 3
    ),
    ("decoder", "text_proj", "decoder_scheduler"),
    _decoder,
)

UPSAMPLER = StageSpec(
    "upsampler",
    Recipe(
        UpsamplerSettings(),
        Data(size=256),
        Training(batch_size=64, steps=100_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # paper, table 3
    ),
    ("super_res_first", "super_res_last", "super_res_scheduler"),
    lambda settings, m: UpsamplerStage.build(settings, m.data.size),
)

STAGES: dict[str, StageSpec[Any]] = {spec.name: spec for spec in (CLIP, PRIOR, DECODER, UPSAMPLER)}

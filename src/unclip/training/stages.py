"""The stages that `unclip train` knows, and their default recipes."""

import shlex
from dataclasses import replace
from typing import Any

import torch

from unclip.checks import printable
from unclip.data.degradations import DegradedSource
from unclip.data.sources import Source, Stream
from unclip.stages.autoregressive_prior import (
    AutoregressivePriorSettings,
    AutoregressivePriorStage,
)
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP
from unclip.stages.decoder import STUDENT, TEACHER, TEXT_ENCODER, DecoderSettings, DecoderStage
from unclip.stages.diffusion_prior import PriorSettings, PriorStage
from unclip.stages.students.guidance import DistillationSettings, DistillationStage
from unclip.stages.upsampler import (
    FIRST,
    LAST,
    SCHEDULERS,
    SECOND,
    UpsamplerSettings,
    UpsamplerStage,
)
from unclip.storage.belonging import check_belonging
from unclip.storage.folder import ModelFolder
from unclip.training.data import open_data
from unclip.training.recipe import Data, Optimiser, Recipe, Training
from unclip.training.spec import BuildContext, StageSpec
from unclip.words import merged, vocabulary


def _clip(settings: ClipSettings, m: BuildContext) -> ClipStage:
    captions = m.captions(settings.captions)
    words = None if m.source.endless else vocabulary(m.source.captions())
    stage = ClipStage.build(settings, captions, words)
    stage.replicas = m.replicas
    return stage


def _warm_start_clip(settings: ClipSettings, m: BuildContext, origin: ModelFolder) -> ClipStage:
    stage = ClipStage.load(origin)
    stage.replicas = m.replicas
    if stage.tokenizer.words is not None:  # else it may know any
        more = m.captions(settings.captions) if m.source.endless else m.source.captions()
        stage.tokenizer.words = merged(stage.tokenizer.words, vocabulary(more))
    return stage


CLIP = StageSpec(
    "clip",
    Recipe(
        ClipSettings(),
        Data(),
        Training(batch_size=256, steps=10_000, ema=0.999),
        # CLIP, table 18 (weight decay, β2, ε); learning rate for small models.
        Optimiser(learning_rate=1e-3, weight_decay=0.2, beta2=0.98, eps=1e-6, decay=1.0),
    ),
    CLIP_COMPONENTS,
    _clip,
    _warm_start_clip,
)


def _check_size(size: int, m: BuildContext, origin: ModelFolder) -> None:
    if size != m.data.size:
        raise ValueError(
            f"{origin.path} makes images of {size} pixels a side, but data.size is {m.data.size}; "
            f"add --data.size {size}"
        )


def _frozen_clip(m: BuildContext, origin: ModelFolder | None = None) -> FrozenCLIP:
    """The model folder's CLIP, or the origin's for a folder that has none yet, in fp32: autocast
    decides what is computed in less."""
    folder = m.folder if origin is None or m.folder.has("text_encoder") else origin
    if not folder.has("text_encoder"):
        name = printable(str(folder.path))
        raise ValueError(
            f"{name} has no CLIP, which this stage learns from; train clip first: "
            f"unclip train clip --model {shlex.quote(name)}"
        )
    with folder.steady():
        return FrozenCLIP.load(folder, torch.float32).to(m.device)


def _prior(settings: PriorSettings, m: BuildContext) -> PriorStage:
    return PriorStage.build(settings, _frozen_clip(m), m.batches())


def _warm_start_prior(settings: PriorSettings, m: BuildContext, origin: ModelFolder) -> PriorStage:
    stage = PriorStage.load(origin, _frozen_clip(m, origin), torch.float32)
    stage.settings = replace(stage.settings, drop_text=settings.drop_text, loss=settings.loss)
    return stage


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
    _warm_start_prior,
)


def _autoregressive_prior(
    settings: AutoregressivePriorSettings, m: BuildContext
) -> AutoregressivePriorStage:
    return AutoregressivePriorStage.build(settings, _frozen_clip(m), m.batches())


def _warm_start_autoregressive_prior(
    settings: AutoregressivePriorSettings, m: BuildContext, origin: ModelFolder
) -> AutoregressivePriorStage:
    stage = AutoregressivePriorStage.load(origin, _frozen_clip(m, origin), torch.float32)
    stage.settings = replace(stage.settings, drop_text=settings.drop_text)
    return stage


AUTOREGRESSIVE_PRIOR = StageSpec(
    "ar-prior",
    Recipe(
        AutoregressivePriorSettings(),
        Data(),
        Training(batch_size=256, steps=10_000, ema=0.999),
        # Paper, table 3.
        Optimiser(learning_rate=1.6e-4, weight_decay=0.04, beta2=0.91, eps=1e-10, warmup=500),
    ),
    ("autoregressive_prior",),
    _autoregressive_prior,
    _warm_start_autoregressive_prior,
)


def _decoder(settings: DecoderSettings, m: BuildContext) -> DecoderStage:
    return DecoderStage.build(settings, _frozen_clip(m), m.data.size)


def _warm_start_decoder(
    settings: DecoderSettings, m: BuildContext, origin: ModelFolder
) -> DecoderStage:
    stage = DecoderStage.load(origin, _frozen_clip(m, origin), torch.float32).with_student(None)
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
    stage.settings = settings
    _check_size(stage.size, m, origin)
    return stage


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
    _warm_start_decoder,
    (TEXT_ENCODER,),
)


def _distillation(settings: DistillationSettings, m: BuildContext) -> DistillationStage:
    if not m.folder.has("decoder"):
        raise ValueError(f"{m.folder.path} has no decoder to distil; train one first")
    with m.folder.steady():
        check_belonging(m.folder.index(), m.folder.path)
        teacher = DecoderStage.load(m.folder, _frozen_clip(m), torch.float32)
    teacher.network.to(m.device)
    _check_size(teacher.size, m, m.folder)
    return DistillationStage.build(settings, teacher)


DISTILLED_DECODER = StageSpec(
    "distilled-decoder",
    Recipe(
        DistillationSettings(),
        Data(),
        Training(batch_size=64, steps=20_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # the decoder's
    ),
    (STUDENT,),
    _distillation,
    teacher=TEACHER,
)


def _upsampler(
    name: str, component: str, components: tuple[str, ...], recipe: Recipe[UpsamplerSettings]
) -> StageSpec[UpsamplerSettings]:
    """The two upsamplers differ in their recipes and in where they are kept."""

    def warm_start(
        settings: UpsamplerSettings, m: BuildContext, origin: ModelFolder
    ) -> UpsamplerStage:
        if component == SECOND and not origin.has(SECOND):
            # Both enlarge, so the first one is a better start than noise.
            first = UpsamplerStage.load(origin, FIRST, torch.float32)
            stage = first.as_second(settings, m.data.size)
        else:
            stage = UpsamplerStage.load(origin, component, torch.float32)
            stage.settings, stage.last = settings, None
        _check_size(stage.size, m, origin)
        return stage

    return StageSpec(
        name,
        recipe,
        components,
        lambda settings, m: UpsamplerStage.build(settings, m.data.size, component),
        warm_start,
        (FIRST, SCHEDULERS[FIRST]),
        source=_upsampler_data,
    )


def _upsampler_data(recipe: Recipe[UpsamplerSettings]) -> Source | Stream:
    """The images, or with BSR their crops and degraded small images."""
    source, settings, data = open_data(recipe.data), recipe.network, recipe.data
    if settings.degradation == "blur":
        return source
    return DegradedSource(
        source,
        data.size // settings.crop,
        settings.factor,
        data.world.seed,
        settings.strength,
        settings.degradation_probability,
    )


UPSAMPLER = _upsampler(
    "upsampler",
    FIRST,
    (FIRST, LAST, SCHEDULERS[FIRST]),
    Recipe(
        UpsamplerSettings(),
        Data(size=256),
        Training(batch_size=64, steps=100_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # paper, table 3
    ),
)
UPSAMPLER_1024 = _upsampler(
    "upsampler-1024",
    SECOND,
    (SECOND, SCHEDULERS[SECOND]),
    Recipe(
        # Paper, table 3: six levels of these proportions, and a linear schedule.
        UpsamplerSettings(
            widths=(32, 32, 64, 64, 128, 128),
            layers=2,
            beta_schedule="linear",
            degradation="bsr",
        ),
        Data(size=1024),
        Training(batch_size=32, steps=100_000),
        Optimiser(learning_rate=1e-4, warmup=1000),
    ),
)

STAGES: dict[str, StageSpec[Any]] = {
    spec.name: spec
    for spec in (
        CLIP,
        PRIOR,
        AUTOREGRESSIVE_PRIOR,
        DECODER,
        DISTILLED_DECODER,
        UPSAMPLER,
        UPSAMPLER_1024,
    )
}

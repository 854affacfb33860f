"""The diffusion prior: P(z_i | y) by Gaussian diffusion over CLIP image embeddings (section 2.2).

Shapes: N captions, M candidates per caption, D embedding width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.batch import Batch
from unclip.checks import whole_number
from unclip.config import Candidates, Dropout, Heads, Layers, Probability, Width
from unclip.diffusion.guidance import guide
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.prediction import Noise
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import Callback
from unclip.diffusion.sampling import Sampling
from unclip.diffusion.schedules import DiffusionConfig
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.diffusion_prior import SIZES, DiffusionPrior, DiffusionPriorConfig, Prefix
from unclip.stages.base import SCHEDULER, ComponentClasses
from unclip.stages.conditioning import (
    FrozenCLIP,
    TextCondition,
    dropped,
    image_embeddings,
    text_condition,
)
from unclip.stages.prior import MAX_CANDIDATES, Measured, best_candidates, check_candidates
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.sizes import BY_SIZE, Sized, size_of
from unclip.stages.spec import BuildContext, Probe, StageSpec
from unclip.stages.suiting import of_prior
from unclip.stages.warm_start import take
from unclip.storage.folder import ModelFolder, together
from unclip.storage.scheduler import load_scheduler, save_scheduler

_CANDIDATES = "_prior_num_candidates"  # in the index: z_i drawn for an image
_MEASURED = ("clip_mean", "clip_std")  # tensors of the network that no training changes


@dataclass(frozen=True)
class PriorSettings(Sized):
    """What is chosen about a diffusion prior before it is trained."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES

    num_layers: Layers = BY_SIZE  # layers of the Transformer
    num_attention_heads: Heads = BY_SIZE  # attention heads
    attention_head_dim: Width = BY_SIZE  # channels of a head
    dropout: Dropout = 0.0  # probability of dropout within blocks
    # probability that the caption is dropped, for guidance (section 2.2)
    drop_text: Probability = 0.1
    candidates: Candidates = 2  # z_i drawn per image; the one closest to z_t is kept (section 2.2)
    statistics: Measured = 8192  # images that the embeddings' mean and deviation are measured on
    loss: LossConfig = field(default_factory=LossConfig)


class PriorStage:
    """Network, process and frozen CLIP of the diffusion prior."""

    KIND: ClassVar[str] = "diffusion"
    COMPONENTS: ClassVar[ComponentClasses] = {
        "prior": DiffusionPriorConfig.CLASS_NAMES,
        "prior_scheduler": SCHEDULER,
    }

    def __init__(
        self,
        network: DiffusionPrior,
        clip: FrozenCLIP,
        process: DiffusionConfig,
        settings: PriorSettings,
    ) -> None:
        self.network, self.clip, self.settings = network, clip, settings
        self.process = Diffusion(process, settings.loss)
        self._null: tuple[TextCondition, Prefix] | None = None  # the last that was asked with

    @classmethod
    def build(cls, settings: PriorSettings, clip: FrozenCLIP, batches: Iterable[Batch]) -> Self:
        """A fresh prior that knows the statistics of the embeddings in `batches`."""
        network = build_network(settings, clip.text_sizes)
        mean, std = embedding_statistics(clip, batches, settings.statistics)
        network.clip_mean.data.copy_(mean)
        network.clip_std.data.copy_(std)
        process = DiffusionConfig(prediction_type="sample", clip_sample_range=5.0)
        return cls(network, clip, process, settings)

    @classmethod
    def load(cls, folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None = None) -> Self:
        """Read `prior` and `prior_scheduler` of a model folder."""
        where = str(folder.path / "prior" / "config.json")
        config = DiffusionPriorConfig.from_json(folder.config("prior"), where)
        if config.embedding_dim != clip.width:
            raise ValueError(
                f"{folder.path}: the prior makes embeddings of width {config.embedding_dim}, "
                f"but the text encoder's have width {clip.width}: they are not of one model"
            )
        if config.num_embeddings < clip.tokenizer.context_length:
            raise ValueError(
                f"{folder.path}: the prior reads {config.num_embeddings} caption tokens, but the "
                f"text encoder gives {clip.tokenizer.context_length}: they are not of one model"
            )
        network = folder.load("prior", DiffusionPrior, config, dtype)
        candidates = folder.index().get(_CANDIDATES, 1)  # where none is said: diffusers'
        candidates = whole_number(candidates, f"{folder.path}: {_CANDIDATES}", 1, MAX_CANDIDATES)
        sizes = {key: getattr(config, key) for key in SIZES["small"]}
        settings = PriorSettings(
            **sizes,
            dropout=config.dropout,
            candidates=candidates,
            size=size_of(PriorSettings, sizes),
        )
        return cls(network, clip, load_scheduler(folder, "prior_scheduler"), settings)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """L_prior = E || f(z_i^(t), t, y) - z_i ||² (equation 2), on normalised embeddings."""
        captions = dropped(batch["captions"], self.settings.drop_text, generator)
        text = text_condition(self.clip, batch, captions)
        x0 = self.network.normalise(image_embeddings(self.clip, batch))
        x_t, t, noise = self.process.draw(x0, generator)
        output = self.network(
            x_t, t, text_embeddings=text.z_t, text_hidden_states=text.hidden, text_mask=text.mask
        )
        return self.process.loss(output, x0, noise, t)

    @torch.no_grad()
    def prefix(self, text: TextCondition) -> Prefix:
        """What the network needs to know of captions, whatever the timestep."""
        return self.network.prefix(
            text_embeddings=text.z_t, text_hidden_states=text.hidden, text_mask=text.mask
        )

    @torch.no_grad()
    def sample(
        self,
        text: TextCondition,
        sampling: Sampling,
        noise: Noise,
        null: TextCondition | None = None,
        callback: Callback | None = None,
        candidates: int | None = None,
    ) -> Tensor:
        """Draw z_i (N, D) for N captions, as CLIP gives them.

        Args:
            null: the empty caption; encoded here if it is not given. While it is the same object
                from call to call, the network reads it once.
            noise: draws for N · M rows, the candidates of a caption in a row.
            candidates: M; the model's own number if left out.

        Raises:
            ValueError: no candidate is asked for.
        """
        shape = self.noise_shape(len(text), candidates)
        plan, guidance = self.process.plan(sampling), sampling.guidance
        prefixes = [self.prefix(text)]
        if plan.active:
            prefixes.append(self._null_prefix(null).expand(len(text)))
        both = self.network.continuation(prefixes, shape[0] // len(text), plan.timesteps)
        conditional = both[: len(text)]

        def network(x: Tensor, t: float, guided: bool) -> Tensor:
            return self.network.proceed(x, t, both if guided else conditional)

        output = guide(network, guidance, plan.guided, shape[1])
        denoiser = self.process.denoiser(output, sampling.threshold)
        like = torch.empty(shape, device=text.z_t.device)
        x0 = self.process.sample(denoiser, like, sampling, noise, callback)
        return best_candidates(self.network.denormalise(x0), text.z_t)

    def noise_shape(self, count: int, candidates: int | None = None) -> tuple[int, int]:
        """Of what is drawn first for so many captions: (N · M, D).

        Raises:
            ValueError: no candidate is asked for.
        """
        each = check_candidates(self.settings.candidates if candidates is None else candidates)
        return count * each, self.network.config.embedding_dim

    def steps_for(self, sampling: Sampling) -> int:
        """Steps of the process: as many as are asked for."""
        return len(self.process.timesteps(sampling))

    def _null_prefix(self, null: TextCondition | None) -> Prefix:
        if null is None:
            return self.prefix(self.clip.text([""]))
        if self._null is None or self._null[0] is not null:
            self._null = null, self.prefix(null)
        return self._null[1]

    def suits(self) -> dict[str, Any]:
        """By diffusion; guided where captions were dropped."""
        return of_prior(guidable=self.settings.drop_text > 0)

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        return None

    @together
    def save(self, folder: ModelFolder) -> None:
        """prior and prior_scheduler."""
        config = self.network.config
        folder.save(
            "prior",
            ("diffusers", config.class_name),
            {"config.json": config.to_json()},
            self.network.state_dict(),
        )
        save_scheduler(folder, "prior_scheduler", self.process.config)
        folder.update_index({_CANDIDATES: self.settings.candidates})


def build_network(settings: PriorSettings, text: CLIPTextConfig) -> DiffusionPrior:
    """A fresh network for a CLIP whose text tower this is."""
    return DiffusionPrior(
        DiffusionPriorConfig(
            settings.num_attention_heads,
            settings.attention_head_dim,
            settings.num_layers,
            text.projection_dim,
            text.max_position_embeddings,
            settings.dropout,
        )
    )


def embedding_statistics(
    clip: FrozenCLIP, batches: Iterable[Batch], count: int
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, D) of at least `count` image embeddings.

    The paper scales embeddings by a constant (17.2) to about unit variance; the published layout
    normalises each component, which is what is measured here.
    """
    rows: list[Tensor] = []
    for batch in batches:
        rows.append(image_embeddings(clip, batch).cpu().double())
        if sum(map(len, rows)) >= count:
            break
    z_i = torch.cat(rows)
    std = z_i.std(dim=0, keepdim=True).clamp(min=1e-6)
    return z_i.mean(dim=0, keepdim=True).float(), std.float()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine similarity of rows."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).mean()


def _build(settings: PriorSettings, context: BuildContext) -> PriorStage:
    return PriorStage.build(settings, context.clip(), context.batches())


def _warm_start(settings: PriorSettings, context: BuildContext, origin: ModelFolder) -> PriorStage:
    stage = PriorStage.load(origin, context.clip_of(origin), torch.float32)
    process = Diffusion(stage.process.config, settings.loss)
    stage.settings = replace(stage.settings, drop_text=settings.drop_text, loss=settings.loss)
    if context.has_own_clip(origin):
        theirs, sizes = stage.network, replace(stage.settings, statistics=settings.statistics)
        stage = PriorStage.build(sizes, context.clip(), context.batches())
        left = take(stage.network, theirs, _MEASURED)
        context.say_what_stays("prior", origin, stage.network, left)
    stage.process = process
    return stage


def _probe(
    network: DiffusionPrior, _: PriorSettings, text: CLIPTextConfig, size: int, n: int
) -> Tensor:
    width, length = network.config.embedding_dim, network.config.num_embeddings
    predicted: Tensor = network(
        torch.empty(n, width),
        torch.zeros(n),
        text_embeddings=torch.empty(n, width),
        text_hidden_states=torch.empty(n, length, width),
        text_mask=torch.ones(n, length, dtype=torch.bool),
    )
    return predicted.sum()


SPEC = StageSpec(
    "prior",
    Recipe(
        PriorSettings(),
        Data(),
        Training(batch_size=256, steps=10_000),
        # Paper, table 3.
        Optimiser(learning_rate=1.1e-4, weight_decay=0.06, beta2=0.96, eps=1e-6, warmup=500),
    ),
    PriorStage.COMPONENTS,
    _build,
    _warm_start,
    network=lambda settings, text, _: build_network(settings, text),
    probe=Probe(_probe),
    notes=(_CANDIDATES,),
    sampled_as="prior",
    embeddings="alone",
)

"""The autoregressive prior: P(z_i | y), one code of z_i after the other (section 2.2).

Shapes: N captions, M candidates per caption, D embedding width, K codes of B buckets, Q buckets of
dot products.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.batch import Batch
from unclip.config import Between, Dropout, Heads, Layers, Probability, Width
from unclip.diffusion.prediction import Noise, Prediction
from unclip.diffusion.samplers import Callback, Stop
from unclip.diffusion.sampling import Sampling
from unclip.networks.autoregressive_prior import (
    SIZES,
    AutoregressivePrior,
    AutoregressivePriorConfig,
    Cache,
    CodePrefix,
)
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.pca import Buckets, Components, Moments, Spacing
from unclip.stages.base import ComponentClasses
from unclip.stages.conditioning import (
    FrozenCLIP,
    TextCondition,
    dropped,
    image_embeddings,
    text_condition,
)
from unclip.stages.prior import Measured, best_candidates, check_candidates
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.sizes import BY_SIZE, Sized, size_of
from unclip.stages.spec import BuildContext, Probe, StageSpec
from unclip.stages.suiting import PRIOR_SCALE
from unclip.stages.warm_start import take
from unclip.storage.folder import ModelFolder

COMPONENT = "autoregressive_prior"
_MEASURED = ("codec.",)  # tensors of the network that no training changes
_BUCKETED = 2**16  # embeddings that buckets are measured on; components have all of them


@dataclass(frozen=True)
class AutoregressivePriorSettings(Sized):
    """What is chosen about an autoregressive prior before it is trained."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES

    num_layers: Layers = BY_SIZE  # layers of the Transformer
    num_attention_heads: Heads = BY_SIZE  # attention heads
    attention_head_dim: Width = BY_SIZE  # channels of a head
    dropout: Dropout = 0.0  # probability of dropout within blocks
    # probability that the caption is dropped, for guidance (section 2.2)
    drop_text: Probability = 0.1
    # Variance left out by the components kept (section 2.2).
    reconstruction_error: Annotated[float, Between(1e-9, 0.999)] = 0.01
    buckets: Buckets = 1024  # buckets of each code (section 2.2)
    spacing: Spacing = "uniform"  # spacing of the buckets, which the paper does not state
    statistics: Measured = 8192  # images that components and buckets are measured on


class AutoregressivePriorStage:
    """Network and frozen CLIP of the autoregressive prior."""

    KIND: ClassVar[str] = "autoregressive"
    COMPONENTS: ClassVar[ComponentClasses] = {COMPONENT: AutoregressivePriorConfig.CLASS_NAMES}

    def __init__(
        self,
        network: AutoregressivePrior,
        clip: FrozenCLIP,
        settings: AutoregressivePriorSettings,
    ) -> None:
        self.network, self.clip, self.settings = network, clip, settings

    @classmethod
    def build(
        cls, settings: AutoregressivePriorSettings, clip: FrozenCLIP, batches: Iterable[Batch]
    ) -> Self:
        """A fresh prior whose codes are measured on the captioned images in `batches`."""
        components, z_i, dots = embedding_codes(
            clip, batches, settings.statistics, settings.reconstruction_error
        )
        network = build_network(
            settings, clip.text_sizes, len(components.axes), components.explained()
        )
        network.codec.measure(components, z_i, dots, settings.spacing)
        return cls(network, clip, settings)

    @classmethod
    def load(cls, folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None = None) -> Self:
        """Read `autoregressive_prior` of a model folder."""
        where = str(folder.path / COMPONENT / "config.json")
        config = AutoregressivePriorConfig.from_json(folder.config(COMPONENT), where)
        if config.embedding_dim != clip.width:
            raise ValueError(
                f"{folder.path}: the autoregressive prior makes embeddings of width "
                f"{config.embedding_dim}, but the text encoder's have width {clip.width}: they are "
                "not of one model"
            )
        if config.num_embeddings < clip.tokenizer.context_length:
            raise ValueError(
                f"{folder.path}: the autoregressive prior reads {config.num_embeddings} caption "
                f"tokens, but the text encoder gives {clip.tokenizer.context_length}: they are not "
                "of one model"
            )
        network = folder.load(COMPONENT, AutoregressivePrior, config, dtype)
        sizes = {key: getattr(config, key) for key in SIZES["small"]}
        settings = AutoregressivePriorSettings(
            **sizes,
            dropout=config.dropout,
            buckets=config.num_buckets,
            spacing=config.bucket_spacing,
            size=size_of(AutoregressivePriorSettings, sizes),
        )
        return cls(network, clip, settings)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of every code given caption, z_t, dot product and the codes before it.

        Where the caption is dropped, so is the dot product with it.
        """
        captions = dropped(batch["captions"], self.settings.drop_text, generator)
        text = text_condition(self.clip, batch, captions)
        z_i = image_embeddings(self.clip, batch)
        codec = self.network.codec
        codes, dots = codec.encode(z_i), codec.encode_dots(z_i, text.z_t)
        absent = torch.tensor([not caption for caption in captions], device=dots.device)
        prefix = self._prefix(text, dots.masked_fill(absent, self.network.config.num_dot_buckets))
        logits = self.network(codes[:, :-1], prefix)  # (N, K, B)
        loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        return {"loss": loss, "bits_per_code": loss.detach() / math.log(2)}

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

        The dot product's bucket is drawn from the top half of the training distribution, or from
        another quantile on (the paper swept 50, 70, 85 and 95 %). Buckets are found from normal
        noise through its distribution function, in their order: where another batch size rounds
        probabilities differently, a code moves to a neighbouring bucket at most.

        Args:
            sampling: only its guidance scale, `temperature` (0 takes the likeliest code, 1 the
                network's distribution), `top_p` (draw from the fewest buckets that together are
                this likely) and `dot_quantile` matter: there are as many steps as codes.
            null: the empty caption; encoded here if it is not given.
            noise: draws for N · M rows, the candidates of a caption in a row.
            callback: sees the z_i so far, the codes to come at their mean; it may stop there, but
                change nothing, as the network has read the codes.
            candidates: M, of which the z_i closest to z_t is kept; 1 if left out, as the paper asks
                for a high dot product through its token instead.

        Raises:
            ValueError: no candidate is asked for; weights so damaged that logits are not finite.
        """
        shape, config = self.noise_shape(len(text), candidates), self.network.config
        count, length, each = shape[0], config.num_codes, shape[0] // len(text)
        many = text.repeat(each)
        draws = noise(torch.empty(shape, device=many.z_t.device))
        places = torch.special.ndtr(draws).clamp(max=1 - 2**-24)  # uniform in [0, 1)
        lowest = lowest_bucket(sampling.dot_quantile, config.num_dot_buckets)
        dots = lowest + (places[:, 0] * (config.num_dot_buckets - lowest)).long()
        guided = sampling.guidance.scale != 1
        if guided:
            null = null or self.clip.text([""])
            many = many + null.expand(len(text)).repeat(each)
            dots = torch.cat([dots, torch.full_like(dots, config.num_dot_buckets)])
        prefix: CodePrefix | None = self._prefix(many, dots)
        cache, codes = Cache(), torch.empty(count, 0, dtype=torch.long, device=draws.device)
        sound = torch.ones((), dtype=torch.bool, device=draws.device)
        for i in range(length):
            new = codes[:, -1:]
            logits = self.network(torch.cat([new, new]) if guided else new, prefix, cache)[:, -1]
            prefix = None
            sound &= logits.isfinite().all()  # looked at once, at the end: a GPU need not wait
            if guided:
                cond, uncond = logits.chunk(2)
                logits = sampling.guidance(cond, uncond, config.num_buckets)
            drawn = draw(logits, places[:, 1 + i], sampling.temperature, sampling.top_p)
            codes = torch.cat([codes, drawn[:, None]], dim=1)
            if callback is not None and _stops(
                callback, i, length, self.network.codec.decode(codes)
            ):
                break
        if not bool(sound):
            raise ValueError("the autoregressive prior's logits hold NaN or infinite values")
        return best_candidates(self.network.codec.decode(codes), text.z_t)

    @property
    def steps(self) -> int:
        """Evaluations of the network for a z_i: K."""
        return self.network.config.num_codes

    def noise_shape(self, count: int, candidates: int | None = None) -> tuple[int, int]:
        """Of what is drawn first for so many captions, for the dot product and each code:
        (N · M, 1 + K).

        Raises:
            ValueError: no candidate is asked for.
        """
        each = check_candidates(1 if candidates is None else candidates)
        return count * each, 1 + self.network.config.num_codes

    def steps_for(self, sampling: Sampling) -> int:
        """K, whatever is asked for."""
        return self.steps

    def suits(self) -> dict[str, Any]:
        """No sampler has a say in it; guided where captions were dropped."""
        return {f"{COMPONENT}_guidance_scale": PRIOR_SCALE if self.settings.drop_text else 1.0}

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        return None

    def save(self, folder: ModelFolder) -> None:
        """autoregressive_prior, which is no part of the published layout."""
        config = self.network.config
        folder.save(
            COMPONENT,
            ("unclip", config.class_name),
            {"config.json": config.to_json()},
            self.network.state_dict(),
        )

    def _prefix(self, text: TextCondition, dots: Tensor) -> CodePrefix:
        return CodePrefix(text.z_t, text.hidden, text.mask, dots)


def build_network(
    settings: AutoregressivePriorSettings, text: CLIPTextConfig, codes: int, explained: float = 0
) -> AutoregressivePrior:
    """A network of `codes` codes, not yet measured, for a CLIP whose text tower this is."""
    return AutoregressivePrior(
        AutoregressivePriorConfig(
            codes,
            settings.num_attention_heads,
            settings.attention_head_dim,
            settings.num_layers,
            text.projection_dim,
            text.max_position_embeddings,
            settings.buckets,
            dropout=settings.dropout,
            bucket_spacing=settings.spacing,
            explained_variance=explained,
        )
    )


def _network(
    settings: AutoregressivePriorSettings, text: CLIPTextConfig, _: int
) -> AutoregressivePrior:
    """With as many codes as the paper's: 319 for embeddings of width 1024 (section 2.2)."""
    return build_network(settings, text, max(1, round(319 / 1024 * text.projection_dim)))


def _stops(callback: Callback, i: int, length: int, z_i: Tensor) -> bool:
    """Show the callback z_i (N, D) after code i; whether it ends there."""
    try:
        changed = callback(i, length - 1 - i, z_i, Prediction(z_i, torch.zeros_like(z_i)))
    except Stop:
        return True
    if changed is not None and changed is not z_i:
        raise ValueError("the autoregressive prior's state is codes: a callback cannot change it")
    return False


def lowest_bucket(quantile: float, buckets: int) -> int:
    """The lowest of as many equally full buckets that lies above the quantile, or the last."""
    return min(math.ceil(quantile * buckets), buckets - 1)


_COLD = 1e-30  # what is divided by less can be infinite in fp32; the likeliest is drawn anyway


def draw(logits: Tensor, places: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Buckets (N,) from logits (N, B): the ones at `places` (N,) in [0, 1) of their distribution.

    Raises:
        ValueError: the temperature is negative, or top_p is not above 0 and at most 1.
    """
    if not temperature >= 0:
        raise ValueError(f"the temperature is {temperature}; it must be 0 or more")
    if temperature < _COLD:
        return logits.argmax(dim=1)
    p = nucleus((logits / temperature).softmax(dim=1), top_p)
    cumulated = p.cumsum(dim=1)
    found = torch.searchsorted(cumulated, places[:, None] * cumulated[:, -1:], right=True)
    return found.squeeze(1).clamp(max=logits.shape[1] - 1)


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """Probabilities (N, B), zero but for the fewest whose sum reaches `top_p`; not normalised.

    Holtzman et al., arXiv 1904.09751, section 3.1.

    Raises:
        ValueError: `top_p` is not above 0 and at most 1.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if top_p == 1:
        return p
    ordered, where = p.sort(dim=1, descending=True, stable=True)
    enough = ordered.cumsum(dim=1) - ordered >= top_p  # those before it suffice
    return torch.zeros_like(p).scatter(1, where, ordered.masked_fill(enough, 0.0))


def embedding_codes(
    clip: FrozenCLIP, batches: Iterable[Batch], count: int, error: float
) -> tuple[Components, Tensor, Tensor]:
    """What codes are measured on, of at least `count` captioned images.

    Returns:
        The principal components, and for the first 65,536 images z_i (N, D) and z_i · z_t (N,), on
        the CPU.
    """
    moments = Moments(clip.width)
    rows: list[Tensor] = []
    dots: list[Tensor] = []
    for batch in batches:
        z_i = image_embeddings(clip, batch)
        if moments.count < _BUCKETED:
            z_t = text_condition(clip, batch, batch["captions"]).z_t
            dots.append((z_i * z_t).sum(dim=1).cpu())
            rows.append(z_i.cpu())
        moments.add(z_i)
        if moments.count >= count:
            break
    return Components.of(moments).within(error), torch.cat(rows), torch.cat(dots)


def _build(
    settings: AutoregressivePriorSettings, context: BuildContext
) -> AutoregressivePriorStage:
    return AutoregressivePriorStage.build(settings, context.clip(), context.batches())


def _warm_start(
    settings: AutoregressivePriorSettings, context: BuildContext, origin: ModelFolder
) -> AutoregressivePriorStage:
    stage = AutoregressivePriorStage.load(origin, context.clip_of(origin), torch.float32)
    stage.settings = replace(stage.settings, drop_text=settings.drop_text)
    if context.has_own_clip(origin):
        theirs, error = stage.network, settings.reconstruction_error
        sizes = replace(stage.settings, statistics=settings.statistics, reconstruction_error=error)
        stage = AutoregressivePriorStage.build(sizes, context.clip(), context.batches())
        left = take(stage.network, theirs, _MEASURED)
        context.say_what_stays("autoregressive prior", origin, stage.network, left)
    return stage


def _probe(
    network: AutoregressivePrior,
    _: AutoregressivePriorSettings,
    text: CLIPTextConfig,
    size: int,
    n: int,
) -> Tensor:
    config = network.config
    width, length = config.embedding_dim, config.num_embeddings
    prefix = CodePrefix(
        torch.empty(n, width),
        torch.empty(n, length, width),
        torch.ones(n, length, dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
    )
    logits: Tensor = network(torch.zeros(n, config.num_codes - 1, dtype=torch.long), prefix)
    return logits.sum()


SPEC = StageSpec(
    "ar-prior",
    Recipe(
        AutoregressivePriorSettings(),
        Data(),
        Training(batch_size=256, steps=10_000, ema=0.999),
        # Paper, table 3.
        Optimiser(learning_rate=1.6e-4, weight_decay=0.04, beta2=0.91, eps=1e-10, warmup=500),
    ),
    AutoregressivePriorStage.COMPONENTS,
    _build,
    _warm_start,
    network=_network,
    probe=Probe(_probe),
    sampled_as=COMPONENT,
    embeddings="alone",
)

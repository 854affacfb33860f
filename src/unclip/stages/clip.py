"""CLIP's contrastive training (Radford et al. 2021, section 2; unCLIP, appendix C), by softmax or
sigmoid (Zhai et al. 2023).

On several processes each compares its own rows with the columns of all: what is gathered are
embeddings, and no process has more than N × M similarities.

Shapes: N batch of this process, M batch over all processes, E embedding width.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.batch import Batch
from unclip.checks import Notice, many, printable
from unclip.config import Between, Checked, Tokens
from unclip.data.sources import vocabulary_of
from unclip.device.precision import full_precision
from unclip.networks.clip import MAX_LOGIT_SCALE
from unclip.networks.clip_config import CLIPConfig, CLIPTextConfig
from unclip.networks.preprocessing import ImageProcessorConfig, preprocess
from unclip.stages.base import Replicas
from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP
from unclip.stages.encoders import CLIP
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, Probe, StageSpec
from unclip.storage.folder import ModelFolder
from unclip.tokenizer import MAX_VOCABULARY, Tokenizer
from unclip.words import Vocabulary, merged, vocabulary

# What the sigmoid loss's scale (its logarithm) and bias start from, as nearly all pairs are wrong
# ones (SigLIP, section 3.2).
_SCALE, _BIAS = math.log(10), -10.0


@dataclass(frozen=True)
class ClipSettings(Checked):
    """What is chosen about CLIP before it is trained."""

    size: str = "small"  # name of a size: tiny to ViT-H/16, or karlo, or paper
    # tokens of the tokenizer's vocabulary, at most
    vocab_size: Annotated[int, Between(514, MAX_VOCABULARY)] = 1024
    context_length: Tokens = 32  # tokens that a caption is cut to
    # captions that the tokenizer is trained on, at most
    captions: Annotated[int, Between(1, 2**20)] = 20_000
    # resolution that CLIP sees: data.size, or the size's own (32 px up to small, medium 64, large
    # 128), which the published sizes, ViT-*, karlo and paper, always have
    resolution: Literal["data", "size"] = "data"
    # softmax: the right one among a batch's (CLIP); sigmoid: each pair by itself, right or not
    # (SigLIP), which small batches suit better
    loss: Literal["softmax", "sigmoid"] = "softmax"
    # tokens that the captions' words get, at most, where `training.init` names a CLIP that was not
    # trained with them
    new_tokens: Annotated[int, Between(0, 2**16)] = 1024

    def config(self, vocab_size: int, image_size: int | None = None) -> CLIPConfig:
        """`vocab_size` is the trained tokenizer's: captions may need fewer tokens than asked;
        `image_size`, pixels, that of the data."""
        seen = image_size if self.resolution == "data" else None
        config = CLIPConfig.preset(self.size, vocab_size, self.context_length, seen)
        text = replace(config.text, eos_token_id=vocab_size - 1)
        if self.loss == "sigmoid":
            text = replace(text, logit_scale_init_value=_SCALE, logit_bias_init_value=_BIAS)
        return replace(config, text=text)


class ClipStage:
    """Image and text towers pulled together over the batch."""

    def __init__(self, network: CLIP, tokenizer: Tokenizer) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.processor = ImageProcessorConfig.for_clip(network.config.vision.image_size)
        self.replicas: Replicas | None = None  # that share a batch, where there are several

    @classmethod
    def build(
        cls,
        settings: ClipSettings,
        captions: list[str],
        known: Vocabulary | None = None,
        image_size: int | None = None,
    ) -> Self:
        """A fresh CLIP with a tokenizer trained on `captions`.

        Args:
            known: what all captions speak of that it will be trained with, if these are only some.
            image_size: pixels of a side of the images; the size's own if left out.
        """
        tokenizer = Tokenizer.train(captions, settings.vocab_size, settings.context_length)
        tokenizer.vocabulary = known or Vocabulary(vocabulary(captions))
        config = settings.config(len(tokenizer), image_size)
        return cls(CLIP(config).initialise(), tokenizer)

    @classmethod
    def load(cls, folder: ModelFolder, loss: str | None = None) -> Self:
        """A model folder's CLIP, in fp32, to be trained further.

        Args:
            loss: "softmax" or "sigmoid", whose bias is learned anew where the CLIP has none; that
                which it was trained by if left out.

        Raises:
            ValueError: it has no image encoder.
        """
        clip = FrozenCLIP.load(folder, torch.float32)
        if clip.image_encoder is None:
            raise ValueError(f"{folder.path} has no image_encoder, so its CLIP cannot be trained")
        text, known = clip.text_encoder, clip.text_encoder.config.logit_bias_init_value
        if loss is not None and (known is None) != (loss == "softmax"):
            before = "softmax" if known is None else "sigmoid"
            warnings.warn(
                f"the CLIP of {printable(str(folder.path))} was trained by the {before} loss and "
                f"goes on by the {loss} one (network.loss)",
                Notice,
                stacklevel=2,
            )
            bias = _BIAS if loss == "sigmoid" else None
            text.config = replace(text.config, logit_bias_init_value=bias)
        stage = cls(CLIP.joined(text, clip.image_encoder), clip.tokenizer)
        stage.processor = clip.processor or stage.processor
        return stage

    @torch.no_grad()
    def extend(self, captions: Iterable[str], most: int) -> int:
        """Give words that the CLIP has not seen tokens of their own; how many tokens that made.

        A new one starts as the mean of those that it stands for, and what was known is read as
        before.
        """
        tokenizer, stands_for = self.tokenizer.extended(captions, most)
        if not stands_for:
            return 0
        embeddings, config = self.network.text_model.embeddings, self.network.config
        old = embeddings.token_embedding.weight
        first = max(tokenizer.vocab.values()) + 1 - len(stands_for)
        rows = torch.stack([old[ids].mean(dim=0) for ids in stands_for])
        unused = old[first + len(rows) :]  # of an encoder that has more than its tokenizer
        weight = torch.cat([old[:first], rows, unused])
        embeddings.token_embedding = nn.Embedding(len(weight), weight.shape[1], _weight=weight)
        self.network.text_model.eos_token_id = tokenizer.eos_id  # no longer the highest
        size = embeddings.token_embedding.num_embeddings
        text = replace(config.text, vocab_size=size, eos_token_id=tokenizer.eos_id)
        self.network.config = replace(config, text=text)
        self.tokenizer = tokenizer
        return len(rows)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Of cosine similarities, over all processes' pairs: the symmetric cross-entropy, or where
        the network has a bias the sigmoid loss."""
        images = batch["images"]
        tokens = self.tokenizer(batch["captions"]).trimmed().to(images.device)
        z_i = self.network.encode_image(preprocess(images, self.processor))
        z_t, _ = self.network.encode_text(tokens.ids)
        with torch.no_grad():  # beyond its limit it would have no gradient, and stay there
            self.network.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        with full_precision(images.device):
            scale, bias = self.network.temperature(), self.network.logit_bias
            if bias is None:
                return contrastive_loss(z_i.float(), z_t.float(), scale, self.replicas)
            return sigmoid_loss(z_i.float(), z_t.float(), scale, bias, self.replicas)

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        return None

    def save(self, folder: ModelFolder) -> None:
        """text_encoder, image_encoder, tokenizer and feature_extractor."""
        text_encoder, image_encoder = self.network.towers()
        FrozenCLIP(text_encoder, self.tokenizer, image_encoder, self.processor).save(folder)


def contrastive_loss(
    z_i: Tensor, z_t: Tensor, scale: Tensor, replicas: Replicas | None = None
) -> dict[str, Tensor]:
    """CLIP's loss for this process's N pairs among the M pairs of all processes.

    Args:
        z_i, z_t: (N, E) image and text embeddings, fp32.
        scale: the temperature's factor on cosine similarities.
        replicas: the processes, where the batch is spread over several.

    Returns:
        "loss", averaged over processes it is the loss of the whole batch of M; "accuracy" of
        image → text among the M; "scale".
    """
    z_i, z_t = F.normalize(z_i, dim=-1), F.normalize(z_t, dim=-1)
    all_i, all_t, first = z_i, z_t, 0
    if replicas is not None:
        all_i, all_t = replicas.gather(z_i), replicas.gather(z_t)
        first = replicas.rank * len(z_i)
    labels = torch.arange(first, first + len(z_i), device=z_i.device)
    logits_i, logits_t = scale * z_i @ all_t.T, scale * z_t @ all_i.T  # (N, M)
    loss = (F.cross_entropy(logits_i, labels) + F.cross_entropy(logits_t, labels)) / 2
    accuracy = (logits_i.argmax(dim=1) == labels).float().mean()
    return {"loss": loss, "accuracy": accuracy, "scale": scale.detach()}


def sigmoid_loss(
    z_i: Tensor, z_t: Tensor, scale: Tensor, bias: Tensor, replicas: Replicas | None = None
) -> dict[str, Tensor]:
    """SigLIP's loss (Zhai et al. 2023, section 3.2) for this process's N images and all M captions.

    Every pair of an image and a caption is a yes or no of its own; a sum over captions, a mean over
    images. Only captions are gathered.

    Args and returns are as in `contrastive_loss`, with the `bias` that similarities get.
    """
    z_i, z_t = F.normalize(z_i, dim=-1), F.normalize(z_t, dim=-1)
    all_t, first = z_t, 0
    if replicas is not None:
        all_t, first = replicas.gather(z_t), replicas.rank * len(z_i)
    labels = torch.arange(first, first + len(z_i), device=z_i.device)
    logits = scale * z_i @ all_t.T + bias  # (N, M)
    # -log σ(±l): of the right pairs σ(l), of the others σ(-l) = 1 - σ(l)
    loss = (F.softplus(logits).sum(dim=1) - logits.gather(1, labels[:, None])[:, 0]).mean()
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    learned = {"scale": scale.detach(), "bias": bias.detach()}
    return {"loss": loss, "accuracy": accuracy, **learned}


def _build(settings: ClipSettings, context: BuildContext) -> ClipStage:
    captions, source = context.captions(settings.captions), context.source
    spoken = captions if source.endless else source.captions()
    known = vocabulary_of(source, spoken)
    stage = ClipStage.build(settings, captions, known, context.data.size)
    stage.replicas = context.replicas
    return stage


def _warm_start(settings: ClipSettings, context: BuildContext, origin: ModelFolder) -> ClipStage:
    stage, source = ClipStage.load(origin, settings.loss), context.source
    stage.replicas = context.replicas
    before = stage.tokenizer.vocabulary
    if before is not None:  # else it may know any
        made = stage.extend(context.captions(settings.captions), settings.new_tokens)
        if made and context.replicas.rank == 0:
            _say_new(made, origin)
        more = context.captions(settings.captions) if source.endless else source.captions()
        new = vocabulary_of(source, more)
        # What it learned last it knows best, and is what it says of itself.
        stage.tokenizer.vocabulary = replace(new, words=merged(new.words, before.words))
    return stage


def _say_new(tokens: int, origin: ModelFolder) -> None:
    warnings.warn(
        f"the captions have words that the CLIP of {printable(str(origin.path))} was not trained "
        f"with: it gets {many(tokens, 'tokens')} for them, and reads the others as before",
        Notice,
        stacklevel=2,
    )


def _probe(network: CLIP, _: ClipSettings, text: CLIPTextConfig, size: int, n: int) -> Tensor:
    side, length = network.config.vision.image_size, network.config.text.max_position_embeddings
    z_i = network.encode_image(torch.empty(n, 3, side, side))
    z_t, _hidden = network.encode_text(torch.zeros(n, length, dtype=torch.long))
    return z_i.sum() + z_t.sum()


SPEC = StageSpec(
    "clip",
    Recipe(
        ClipSettings(),
        Data(),
        Training(batch_size=256, steps=10_000, ema=0.999),
        # CLIP, table 18 (weight decay, β2, ε); learning rate for small models.
        Optimiser(learning_rate=1e-3, weight_decay=0.2, beta2=0.98, eps=1e-6, decay=1.0),
    ),
    CLIP_COMPONENTS,
    _build,
    _warm_start,
    network=lambda settings, _, size: CLIP(settings.config(settings.vocab_size, size)),
    probe=Probe(_probe, listens=False),
    # Before that field, a size had its own resolution.
    absent={"resolution": "size"},
)

"""The frozen CLIP that prior and decoder are conditioned on.

Shapes: N captions or images, L tokens, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.acceleration.offload import is_offloaded
from unclip.batch import Batch
from unclip.draws import uniform
from unclip.networks.clip import ImageEncoder, TextEncoder
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.preprocessing import ImageProcessorConfig, preprocess
from unclip.stages.base import ComponentClasses
from unclip.stages.encoders import load_image_encoder, load_text_encoder, save_encoder
from unclip.storage.belonging import print_of
from unclip.storage.folder import ModelFolder, together
from unclip.storage.weights import fingerprint_of
from unclip.tokenizer import Tokenizer

CLIP_COMPONENTS: ComponentClasses = {
    "text_encoder": ("CLIPTextModelWithProjection",),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "feature_extractor": (
        "CLIPImageProcessor",
        "CLIPImageProcessorFast",
        "CLIPImageProcessorPil",
        "CLIPFeatureExtractor",
    ),
}
_ARGMAX = 2  # as eos_token_id, in folders that say "the highest id is the end"
_NO_IMAGES = "this model has no image_encoder: it takes captions, not images"


@dataclass(frozen=True)
class TextCondition:
    """Captions as prior and decoder see them: z_t (N, D), hidden states (N, L, D), mask (N, L).

    `ids` (N, L) are the tokens themselves, for a decoder with a text Transformer of its own.
    """

    z_t: Tensor
    hidden: Tensor
    mask: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.z_t)

    def repeat(self, times: int) -> "TextCondition":
        """Every caption `times` times in a row."""
        return self[torch.arange(len(self), device=self.z_t.device).repeat_interleave(times)]

    def __getitem__(self, rows: Tensor | slice) -> "TextCondition":
        return TextCondition(*(x[rows] for x in self.parts))

    def expand(self, n: int) -> "TextCondition":
        """A single caption as n equal ones, without copying."""
        return TextCondition(*(x.expand(n, *x.shape[1:]) for x in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.z_t, self.hidden, self.mask, self.ids

    def __add__(self, other: "TextCondition") -> "TextCondition":
        """Concatenate along the batch; the shorter captions are padded (and stay masked)."""
        length = max(self.hidden.shape[1], other.hidden.shape[1])
        both = [side.padded(length) for side in (self, other)]
        return TextCondition(*(torch.cat(p) for p in zip(*(b.parts for b in both), strict=True)))

    def padded(self, length: int) -> "TextCondition":
        more = length - self.hidden.shape[1]
        hidden = F.pad(self.hidden, (0, 0, 0, more))
        mask = F.pad(self.mask, (0, more), value=False)
        return TextCondition(self.z_t, hidden, mask, F.pad(self.ids, (0, more)))


class FrozenCLIP:
    """Both towers, the tokenizer and the preprocessing of a model folder; nothing trains here."""

    def __init__(
        self,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        image_encoder: ImageEncoder | None,
        processor: ImageProcessorConfig | None,
    ) -> None:
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.image_encoder = image_encoder.requires_grad_(False).eval() if image_encoder else None
        self.processor = processor
        self.device = torch.device("cpu")  # where the towers compute
        self.print = ""  # of the plain weights that it was read from, if known
        self.trims = True  # captions to the longest of a batch; else all are of one length

    @classmethod
    def load(cls, folder: ModelFolder, dtype: torch.dtype | None = None) -> Self:
        """Read what the folder has; the image tower is absent from text-to-image folders."""
        text_encoder = load_text_encoder(folder, dtype)
        sizes = text_encoder.config
        if sizes.hidden_size != sizes.projection_dim:
            raise ValueError(
                f"{folder.path}: the text encoder's hidden states have width {sizes.hidden_size} "
                f"and its embeddings {sizes.projection_dim}; prior and decoder need them equal"
            )
        tokenizer = Tokenizer.from_pretrained(
            folder.component("tokenizer"), sizes.max_position_embeddings
        )
        if max(tokenizer.vocab.values()) >= sizes.vocab_size:
            raise ValueError(
                f"{folder.path}: the tokenizer has ids up to {max(tokenizer.vocab.values())}, but "
                f"the text encoder knows {sizes.vocab_size}: they are not of one model"
            )
        if sizes.eos_token_id not in (_ARGMAX, tokenizer.eos_id):
            raise ValueError(
                f"{folder.path}: captions end with the token {tokenizer.eos_id}, but the text "
                f"encoder reads them at {sizes.eos_token_id} (eos_token_id): they are not of one "
                "model"
            )
        image_encoder = processor = None
        if folder.has("image_encoder"):
            image_encoder = load_image_encoder(folder, dtype)
            width = image_encoder.config.projection_dim
            if width != sizes.projection_dim:
                raise ValueError(
                    f"{folder.path}: the image encoder's embeddings have width {width}, but the "
                    f"text encoder's have width {sizes.projection_dim}: they are not of one model"
                )
            processor = ImageProcessorConfig.for_clip(image_encoder.config.image_size)
        if folder.has("feature_extractor"):
            mapping = folder.config("feature_extractor")
            where = str(folder.path / "feature_extractor")
            processor = ImageProcessorConfig.from_json(mapping, where)
        clip = cls(text_encoder, tokenizer, image_encoder, processor)
        clip.print = print_of(folder.component("text_encoder"))  # the other tower belongs to it
        return clip

    @together
    def save(self, folder: ModelFolder) -> None:
        """text_encoder and tokenizer, and where they are there image_encoder, feature_extractor."""
        save_encoder(folder, self.text_encoder)
        with folder.replacing("tokenizer", ("transformers", "CLIPTokenizer")) as path:
            self.tokenizer.save_pretrained(path)
        if self.image_encoder is not None:
            save_encoder(folder, self.image_encoder)
        if self.processor is not None:
            folder.save(
                "feature_extractor",
                ("transformers", "CLIPImageProcessor"),
                {"preprocessor_config.json": self.processor.to_json()},
            )

    def fingerprints(self) -> dict[str, str]:
        """Of its towers, by component: what is trained with this CLIP belongs to them."""
        towers = {"text_encoder": self.text_encoder, "image_encoder": self.image_encoder}
        return {
            name: fingerprint_of([tower.state_dict()]) for name, tower in towers.items() if tower
        }

    @property
    def width(self) -> int:
        """D."""
        return self.text_encoder.config.projection_dim

    @property
    def text_sizes(self) -> CLIPTextConfig:
        """Of the text tower."""
        return self.text_encoder.config

    def to(self, device: torch.device) -> Self:
        """Compute on `device`; towers without weights of their own (`Offload`) get them there."""
        self.device = device
        for tower in (self.text_encoder, self.image_encoder):
            if tower is not None and not is_offloaded(tower):
                tower.to(device)
        return self

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> TextCondition:
        """Encode captions; padding beyond the longest of them is dropped (it is masked anyway)."""
        tokens = self.tokenizer(captions).to(self.device)
        tokens = tokens.trimmed() if self.trims else tokens
        z_t, hidden = self.text_encoder(tokens.ids)
        return TextCondition(z_t.float(), hidden.float(), tokens.mask, tokens.ids)

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] → z_i (N, D), fp32, as CLIP gives them.

        Raises:
            ValueError: the model has no image encoder.
        """
        if self.image_encoder is None or self.processor is None:
            raise ValueError(_NO_IMAGES)
        return self.encode(preprocess(images, self.processor))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Preprocessed images (N, 3, n, n) → z_i (N, D), fp32, as CLIP gives them."""
        if self.image_encoder is None:
            raise ValueError(_NO_IMAGES)
        z_i: Tensor = self.image_encoder(pixels.to(self.device))
        return z_i.float()


def dropped(captions: Sequence[str], probability: float, generator: torch.Generator) -> list[str]:
    """Captions with some of them replaced by the empty one, the null condition for text."""
    draws = uniform(len(captions), generator=generator).tolist()
    return ["" if u < probability else c for u, c in zip(draws, captions, strict=True)]


class Listens(Protocol):
    """What embeds images and captions: `FrozenCLIP`, or another encoder."""

    def image(self, images: Tensor) -> Tensor: ...

    def text(self, captions: Sequence[str]) -> TextCondition: ...


def image_embeddings(clip: Listens, batch: Batch) -> Tensor:
    """z_i (N, D), fp32, of a batch: precomputed ones where it has them."""
    z_i: Tensor | None = batch.get("z_i")
    return clip.image(batch["images"]) if z_i is None else z_i


def text_condition(clip: Listens, batch: Batch, captions: Sequence[str]) -> TextCondition:
    """Captions of a batch as prior and decoder see them; precomputed where the batch has them.

    Args:
        captions: the batch's, of which some may have been replaced by the empty one.
    """
    if "hidden" not in batch:
        return clip.text(captions)
    hidden, tokens = batch["hidden"], batch["tokens"]
    mask = torch.arange(hidden.shape[1], device=tokens.device) < tokens[:, None]
    stored = TextCondition(batch["z_t"], hidden, mask, batch["ids"])
    changed = [ours != theirs for ours, theirs in zip(captions, batch["captions"], strict=True)]
    if not any(changed):
        return stored
    rows = torch.arange(len(stored), device=hidden.device)
    rows[torch.tensor(changed, device=rows.device)] = len(stored)
    return (stored + clip.text([""]))[rows]

"""What is chosen about a decoder, and what a model folder notes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from unclip.config import (
    Between,
    Dropout,
    Layers,
    Probability,
    Width,
    Widths,
    from_mapping,
)
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.schedules import PredictionType
from unclip.networks.decoder import SIZES
from unclip.stages.masks import CHANNELS
from unclip.stages.sizes import BY_SIZE, Sized
from unclip.storage.folder import ModelFolder

NOTE = "_decoder"  # in the index: what the decoder is conditioned on, where it is not unCLIP's


@dataclass(frozen=True)
class DecoderSettings(Sized):
    """What is chosen about a decoder before it is trained."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES

    widths: Widths = BY_SIZE  # channels from the finest level to the coarsest
    layers: Annotated[int, Between(1, 32)] = BY_SIZE  # resnet blocks a level
    attend_from: Annotated[int, Between(0, 8)] = 1  # finest level with attention
    head_width: Width = BY_SIZE
    groups: Width = BY_SIZE
    context_width: Width = BY_SIZE
    dropout: Dropout = BY_SIZE
    prediction_type: PredictionType = "epsilon"
    drop_image: Probability = 0.1  # z_i dropped for guidance (section 2.1)
    drop_text: Probability = 0.5  # captions dropped (section 2.1)
    # What is in z_i's place: the image's embedding (unCLIP), nothing (GLIDE), or the caption's z_t.
    condition: Literal["image", "caption", "text_embedding"] = "image"
    # Whose are the caption's tokens and the vector beside the timestep: the frozen CLIP's, as in
    # published models, or a text Transformer's that is trained with the decoder, as in the paper.
    caption_tokens: Literal["clip", "own"] = BY_SIZE
    text_layers: Layers = BY_SIZE  # of the Transformer of its own
    inpainting: bool = False  # mask channels; with `training.init`, they are added where need be
    loss: LossConfig = field(default_factory=LossConfig)
    # Of the Transformer of its own; 0: those of CLIP's text Transformer.
    text_width: Annotated[int, Between(0, 2**16)] = BY_SIZE
    text_heads: Annotated[int, Between(0, 1024)] = BY_SIZE

    @property
    def note(self) -> dict[str, Any]:
        """What a model folder must say of a decoder beyond its networks."""
        keys = ("condition", "caption_tokens", "inpainting")
        return {key: getattr(self, key) for key in keys}

    @property
    def in_channels(self) -> int:
        """Of the U-Net: x_t, and what is known."""
        return 3 + CHANNELS * self.inpainting

    @classmethod
    def noted(cls, folder: ModelFolder) -> Self:
        """The settings that a model folder notes; unCLIP's where it notes none."""
        note = folder.index().get(NOTE, {})
        return from_mapping(cls, note, f"{folder.path}: {NOTE}")

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
from unclip.stages.sizes import BY_SIZE, Sized
from unclip.storage.folder import ModelFolder

NOTE = "_decoder"  # in the index: what the decoder is conditioned on, where it is not unCLIP's


@dataclass(frozen=True)
class DecoderSettings(Sized):
    """What is chosen about a decoder before it is trained."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES

    widths: Widths = BY_SIZE  # channels from the finest level to the coarsest, separated by spaces
    layers: Annotated[int, Between(1, 32)] = BY_SIZE  # resnet blocks a level
    attend_from: Annotated[int, Between(0, 8)] = 1  # finest level with attention
    head_width: Width = BY_SIZE  # channels of an attention head
    groups: Width = BY_SIZE  # groups of the group normalisation
    context_width: Width = BY_SIZE  # width of the context's tokens
    dropout: Dropout = BY_SIZE  # probability of dropout within blocks
    prediction_type: PredictionType = "epsilon"  # prediction: the noise ε, the image x_0 or v
    drop_image: Probability = 0.1  # probability that z_i is dropped, for guidance (section 2.1)
    drop_text: Probability = 0.5  # probability that the caption is dropped (section 2.1)
    # condition in z_i's place: the embedding (unCLIP), nothing (GLIDE), or the caption's z_t
    condition: Literal["image", "caption", "text_embedding"] = "image"
    # encoder of the caption's tokens and of the vector beside the timestep: the frozen CLIP, as in
    # published models, or a text Transformer that is trained with the decoder, as in the paper
    caption_tokens: Literal["clip", "own"] = BY_SIZE
    # layers of that own Transformer, which else has the sizes of CLIP's
    text_layers: Layers = BY_SIZE
    inpainting: bool = False  # mask channels; with `training.init`, they are added where need be
    # probability that nothing of an image is known, with mask channels; it is made as without them
    drop_known: Probability = 0.25
    loss: LossConfig = field(default_factory=LossConfig)
    # width of that own Transformer; 0: that of CLIP's text Transformer
    text_width: Annotated[int, Between(0, 2**16)] = BY_SIZE
    # attention heads of that own Transformer; 0: as many as CLIP's text Transformer has
    text_heads: Annotated[int, Between(0, 1024)] = BY_SIZE

    @property
    def note(self) -> dict[str, Any]:
        """What a model folder must say of a decoder beyond its networks."""
        keys = ("condition", "caption_tokens", "inpainting")
        return {key: getattr(self, key) for key in keys}

    @property
    def guidable(self) -> bool:
        """Whether it has seen that all of its condition is missing."""
        return self.drop_text > 0 and (self.condition == "caption" or self.drop_image > 0)

    def inputs(self, channels: int = 3) -> int:
        """Channels into the U-Net of models of before, of a space of `channels`: x_t, and with mask
        channels, which are no component of their own there, what is known and where."""
        return channels + (channels + 1) * self.inpainting

    @classmethod
    def noted(cls, folder: ModelFolder) -> Self:
        """The settings that a model folder notes; unCLIP's where it notes none."""
        note = folder.index().get(NOTE, {})
        return from_mapping(cls, note, f"{folder.path}: {NOTE}")

"""CLIP's image embeddings as features: of a model folder, or of a CLIP as it is published."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from unclip.evaluation.features.extractor import Parts
from unclip.evaluation.features.preprocessors import processor_of
from unclip.networks.preprocessing import ImageProcessorConfig
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.encoders import CLIP
from unclip.storage.folder import ModelFolder

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

_LAYER = "z_i"


class _ImageTower(nn.Module):
    """The image half of a whole CLIP."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection

    def forward(self, images: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model(images))  # type: ignore[no-any-return]


def of_pipeline(pipe: "Pipeline") -> Parts:
    """The CLIP that a pipeline has."""
    return of_frozen(pipe.clip)


def of_model(path: Path) -> Parts:
    """The CLIP of a model folder."""
    return of_frozen(FrozenCLIP.load(ModelFolder(path)))


def open_clip(folder: Path, config: dict[str, Any]) -> Parts:
    """A whole CLIP as transformers writes it."""
    clip = CLIP.from_pretrained(folder)
    processor = processor_of(folder, ImageProcessorConfig.for_clip(clip.config.vision.image_size))
    return Parts(_ImageTower(clip), processor, clip.visual_projection.out_features, _LAYER)


def of_frozen(clip: FrozenCLIP) -> Parts:
    """The image half of one that is open."""
    if clip.image_encoder is None or clip.processor is None:
        raise ValueError(
            "the model has no image_encoder to compare images with; name another extractor"
        )
    return Parts(clip.image_encoder, clip.processor, clip.width, _LAYER)

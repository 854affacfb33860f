"""The judge's inner features: of a network that knows the built-in world, and no CLIP.

Distances in CLIP's embeddings favour the model that draws for them. These are of a network that was
trained on the truth of scenes alone.
"""

import torch
from torch import Tensor, nn

from unclip.evaluation.features.extractor import Parts
from unclip.evaluation.judge.network import SIDE, Judge, load_judge
from unclip.networks.preprocessing import ImageProcessorConfig


class _Trunk(nn.Module):
    """Images (N, 3, 64, 64) in [-1, 1] → the means of its coarsest features."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor) -> Tensor:
        judge = self.judge
        images = images.contiguous(memory_format=torch.channels_last)
        middle = judge.middle(judge.to_middle(judge.fine(judge.stem(images))))
        coarse = judge.coarse(judge.to_coarse(middle))
        norm, activation = judge.patches[0], judge.patches[1]
        features: Tensor = activation(norm(coarse))
        return features.mean(dim=(2, 3))


def of_judge(judge: Judge) -> Parts:
    """The judge as an extractor of one feature for each of its coarsest channels."""
    processor = ImageProcessorConfig(
        size=SIDE, crop_size=SIDE, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5)
    )
    return Parts(_Trunk(judge), processor, judge.config.widths[-1], "coarse, normed, mean")


def open_bundled() -> Parts:
    """Of the bundled judge."""
    return of_judge(load_judge(None))

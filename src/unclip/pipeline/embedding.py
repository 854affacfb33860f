"""Images and captions as CLIP embeds them: functions of a pipeline, which has them as methods.

Shapes: N images or captions, D embedding width, h pixels at the decoder's resolution.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unclip.checks import Notice, of_kind, shown
from unclip.data.transforms import ImageProcessor, square, to_tensor
from unclip.pipeline.inputs import check_prompt, check_prompts
from unclip.pipeline.latent_space import text_diff
from unclip.pipeline.pictures import Images, check_images

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline


@torch.no_grad()
def embed_images(pipe: "Pipeline", image: Images) -> Tensor:
    """CLIP's z_i (N, D), fp32, of images of any mode and size (`pipeline/pictures.py`).

    Raises:
        ValueError: the model has no image encoder; something is no image.
    """
    images = check_images(image)
    if pipe.clip.processor is None:
        raise ValueError("this model has no image_encoder: it takes captions, not images")
    process = ImageProcessor(pipe.clip.processor)
    return torch.cat([pipe.clip.encode(process(one)) for one in images])


def captions(pipe: "Pipeline", prompt: str | Sequence[str], empty: bool = False) -> list[str]:
    """Captions that can be encoded, with a `Notice` of what in them the model does not know.

    Raises:
        ValueError: one is empty and must not be, too long, or no text.
    """
    prompts = check_prompts(prompt, empty)
    for sentence in remarks(pipe, prompts):
        warnings.warn(sentence, Notice, stacklevel=3)
    return prompts


def remarks(pipe: "Pipeline", prompts: Sequence[str]) -> list[str]:
    """What in checked captions the model does not know, in sentences."""
    tokenizer = pipe.clip.tokenizer
    said = [
        f"the model reads {tokenizer.context_length} tokens of a caption; {shown(unread)} is "
        "ignored"
        for unread in map(tokenizer.dropped, dict.fromkeys(prompts))
        if unread
    ]
    known = tokenizer.vocabulary
    unseen = dict.fromkeys(word for text in prompts for word in tokenizer.unseen(text))
    return said + ([known.advice(list(unseen))] if known and unseen else [])


def embed_texts(pipe: "Pipeline", prompt: str | Sequence[str]) -> Tensor:
    """CLIP's z_t (N, D), fp32, of captions."""
    return pipe.clip.text(pipe.captions(prompt)).z_t


def text_direction(pipe: "Pipeline", prompt: str, source_prompt: str = "") -> Tensor:
    """z_d (1, D), on the CPU: of unit length, from one caption to another (section 3.3).

    Raises:
        ValueError: one is no single text; both have the same embedding.
    """
    of_kind(source_prompt, str, "source_prompt", "a string")
    check_prompt(prompt)
    base = pipe.captions(source_prompt) if source_prompt else [""]
    target = pipe.embed_texts(prompt)
    return text_diff(target, pipe.clip.text(base).z_t).cpu()


def squares(pipe: "Pipeline", image: Images) -> Tensor:
    """What is inverted: images' central squares at the decoder's resolution, (N, 3, h, h)."""
    size = pipe.decoder.size
    return torch.stack([to_tensor(square(one, size)) for one in check_images(image)])

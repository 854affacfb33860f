"""The decoder: P(x | z_i, y) by diffusion with guidance and learned variances (section 2.1).

And the two that the paper compares it with, on the same networks: GLIDE, P(x | y), where the
learned null embedding is always in z_i's place; and the text-embedding decoder, which gets the
caption's z_t there. Neither needs a prior.

Any of them can have a student, which takes one evaluation where guidance takes two
(`stages/students/`).

Any of them can have mask channels (`inpainting`; GLIDE, section 2.4): it then sees beside x_t what
is known of the image. Without, `sample` still keeps what is known.
"""

from unclip.stages.decoder.network import TEXT_ENCODER, DecoderNetwork
from unclip.stages.decoder.settings import DecoderSettings
from unclip.stages.decoder.stage import TEACHER, DecoderStage
from unclip.stages.decoder.student import STUDENT, GuidanceStudent

__all__ = [
    "STUDENT",
    "TEACHER",
    "TEXT_ENCODER",
    "DecoderNetwork",
    "DecoderSettings",
    "DecoderStage",
    "GuidanceStudent",
]

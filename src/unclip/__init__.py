"""unCLIP / DALL·E 2: a caption becomes a CLIP image embedding, the embedding becomes an image.

    import unclip
    pipe = unclip.Pipeline.from_pretrained()          # the bundled model
    pipe("a red circle above a blue square", seed=1).images[0].save("out.png")

Names are imported when they are first used, so that `import unclip` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unclip.outputs.latents import Latents
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.requests import Output
    from unclip.pipeline.settings import Settings
    from unclip.stages.encoders import CLIP
    from unclip.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = ["CLIP", "Latents", "Output", "Pipeline", "Settings", "Tokenizer", "__version__"]

_HOMES = {
    "CLIP": "unclip.stages.encoders",
    "Latents": "unclip.outputs.latents",
    "Output": "unclip.pipeline.requests",
    "Pipeline": "unclip.pipeline.pipeline",
    "Settings": "unclip.pipeline.settings",
    "Tokenizer": "unclip.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

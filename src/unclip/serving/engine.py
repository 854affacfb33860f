"""A pipeline as the scheduler's engine."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from PIL import Image

from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.together import Planned, draw_together


class PipelineEngine:
    """Computes images that are planned; see `scheduler.Engine`."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe = pipe

    def key(self, item: Planned) -> Hashable:
        return item.key

    def compute(
        self, items: Sequence[Planned], watch: Callable[[str, int, Any], None]
    ) -> list[Image.Image]:
        return draw_together(self.pipe, items, watch)

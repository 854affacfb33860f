"""Images that leave the server say that they were generated, in every format."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from unclip.interfaces.server.answers import encoded
from unclip.interfaces.server.fields import FORMATS, AskedImages
from unclip.outputs.images import read_info
from unclip.outputs.provenance import NOTE, OFF, PRESENCE, UNMARKED, Provenance
from unclip.outputs.watermark import find


def picture() -> Image.Image:
    """Soft colours, 128 px."""
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_marked_unless_not_wanted(kind: str) -> None:
    for provenance in (Provenance(), UNMARKED):
        file = io.BytesIO(encoded(picture(), AskedImages(output_format=kind), {}, provenance))
        with Image.open(file) as image:
            assert image.format == kind.upper()
            assert find(image.convert("RGB")).marked == provenance.watermark


def test_notes_say_which_mark(tmp_path: Path) -> None:
    for provenance, said in ((Provenance(), PRESENCE), (UNMARKED, OFF)):
        file = tmp_path / "image.png"
        file.write_bytes(encoded(picture(), AskedImages(), {"prompt": "a star"}, provenance))
        assert read_info(file)[NOTE] == said

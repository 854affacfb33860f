"""Frames as a moving picture: GIF, or animated PNG, which keeps every colour."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.outputs.images import text_chunks, write_whole
from unclip.outputs.provenance import UNMARKED, Provenance

DURATION = 120  # milliseconds a frame


def save_animation(
    frames: Sequence[Image.Image],
    path: Path,
    info: Mapping[str, Any],
    duration: int = DURATION,
    provenance: Provenance = UNMARKED,
    made_from: Sequence[Path] = (),
) -> None:
    """Write frames that repeat for ever, as .gif (256 colours a frame) or .apng with `info`.

    Args:
        provenance: how each frame is marked, and the file signed.
        made_from: files that the frames were made from; ingredients of the manifest.

    Raises:
        ValueError: no frames, another ending, a place that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".apng") or not frames:
        raise ValueError(f"{path} does not end in .gif or .apng, or there are no frames for it")
    marked = [provenance.marked(frame) for frame in frames]
    frames, info = [frame for frame, _ in marked], {**info, **marked[0][1]}
    kind = "image/png" if suffix == ".apng" else "image/gif"
    encoded = BytesIO()
    more: dict[str, Any] = {"pnginfo": text_chunks(info)} if suffix == ".apng" else {}
    frames[0].save(
        encoded,
        kind.removeprefix("image/").upper(),
        save_all=True,
        append_images=list(frames[1:]),
        duration=duration,
        loop=0,
        **more,
    )
    write_whole(path, provenance.signed(encoded.getvalue(), kind, info, made_from))

"""What an image that is written says of its origin, and what can be found out of that again.

Three layers: a mark in the pixels (`watermark.py`), a signed manifest (`manifest.py`), and the
notes of `images.py`. docs/provenance.md says what each of them proves.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from unclip.checks import printable
from unclip.files import as_path
from unclip.outputs import watermark
from unclip.outputs.images import Box, check_png, encoded, write_whole
from unclip.outputs.watermark import Found

if TYPE_CHECKING:
    from unclip.outputs.manifest import Identity, Manifest

NOTE = "watermark"
"""Key of the notes that says what mark an image has: its number in hexadecimal digits, or these."""
PRESENCE = "presence"
"""Of an image with a mark without a number, as it is smaller than 256 pixels."""
PARTIAL = "in the repainted part"
OFF = "off"
"""Of one without a mark, as was asked for."""
TOO_NOISY = "hidden by noise"
"""Of one whose mark cannot be found."""
TOO_SMALL = f"none: smaller than {watermark.SMALLEST} pixels"


@dataclass(frozen=True)
class Provenance:
    """How images that are written say that they were generated."""

    watermark: bool = True
    """A mark in the pixels."""
    identity: "Identity | None" = None
    """Who signs a C2PA manifest, if there is to be one."""
    with_prompt: bool = False
    """Whether the manifest says the prompt, or the command, too."""

    def marked(
        self,
        image: Image.Image,
        kept: Image.Image | None = None,
        only: Sequence[Box] | None = None,
    ) -> tuple[Image.Image, dict[str, str]]:
        """The image as it is written, and what the notes say of that.

        Args:
            image: RGB.
            kept: of an image of the same size, pixels that are the same are left as they are,
                and the mark goes on with the number that the mark of this one has.
            only: parts that the mark is in, such as the images of a sheet, if it is found again
                there; all of it if left out.
        """
        if not self.watermark:
            return image, {NOTE: OFF}
        kind = watermark.strength(image)
        if not kind:
            return image, {NOTE: TOO_SMALL}
        if kept is not None:
            before = watermark.find(kept, [1.0])
            number = before.number if before.sure else None
            number = number_of(image) if number is None else number
            return watermark.mark(image, number if kind == "number" else 0, kept), {NOTE: PARTIAL}
        number = number_of(image) if kind == "number" else 0
        said = f"{number:08x}" if kind == "number" else PRESENCE
        for parts in (only, None):  # where the parts hide it, the margins of a sheet still show it
            written = watermark.mark(image, number, only=parts)
            if watermark.holds(written):
                return written, {NOTE: said}
        return written, {NOTE: TOO_NOISY}

    def save_png(
        self,
        image: Image.Image,
        path: str | os.PathLike[str],
        info: Mapping[str, Any],
        kept: Image.Image | None = None,
        made_from: Sequence[Path] = (),
        only: Sequence[Box] | None = None,
    ) -> None:
        """Write a PNG, as `images.save_png` does, marked and perhaps signed.

        Args:
            made_from: files that the image was made from; ingredients of the manifest.
            kept, only: as of `marked`.
        """
        path = as_path(path, "path")
        check_png(path)
        written, note = self.marked(image, kept, only)
        notes = {**info, **note}
        write_whole(path, self.signed(encoded(written, notes), "image/png", notes, made_from))

    def signed(
        self, data: bytes, kind: str, notes: Mapping[str, Any], made_from: Sequence[Path] = ()
    ) -> bytes:
        """An encoded image with the manifest, if there is an identity; else as it is.

        Args:
            kind: image/png, image/jpeg, image/webp or image/gif.
            notes: of which the manifest says the model, the mark's number, and if asked the prompt.
        """
        if self.identity is None:
            return data
        from unclip.outputs.manifest import sign

        return sign(data, kind, notes, self.identity, made_from, self.with_prompt)


UNMARKED = Provenance(watermark=False)


def number_of(image: Image.Image) -> int:
    """The number that an image's mark says: 32 bits of a hash of its pixels before they are marked.

    The same image has the same number, and no one learns anything from it.
    """
    pixels = np.ascontiguousarray(np.asarray(image))
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    return int.from_bytes(digest[:4], "big")


# --- looking back -------------------------------------------------------------------------------

GENERATED, CLAIMED, UNKNOWN, CONTRADICTED = "generated", "claimed", "unknown", "contradicted"


@dataclass(frozen=True)
class Evidence:
    """What an image says of its origin."""

    found: Found
    notes: Mapping[str, Any] | None = None
    """Those of `images.read_info`, which anybody can write and remove."""
    manifest: "Manifest | None" = None

    @cached_property
    def contradictions(self) -> list[str]:
        """In which ways the layers do not fit each other: clauses."""
        said = []
        if self.manifest is not None and not self.manifest.valid:
            said.append(f"the manifest does not hold: {self.manifest.problem}")
        noted = str((self.notes or {}).get(NOTE, ""))
        numbered = len(noted) == 2 * watermark.BITS // 8
        if (numbered or noted == PRESENCE) and not self.found.marked:
            said.append("the notes tell of a mark that is not there")
        number = self.found.number
        sure = numbered and self.found.marked and self.found.sure
        if sure and number is not None and f"{number:08x}" != noted:
            said.append("the notes are those of another image")
        return said

    @property
    def verdict(self) -> str:
        """One of `GENERATED` (a mark or a manifest that holds), `CLAIMED` (notes alone),
        `UNKNOWN` (nothing was found) and `CONTRADICTED`."""
        if self.contradictions:
            return CONTRADICTED
        if self.found.marked or (self.manifest is not None and self.manifest.generated):
            return GENERATED
        return UNKNOWN if self.notes is None else CLAIMED

    def sentences(self) -> list[str]:
        """Each layer in a line."""
        return [self._manifest(), self._mark(), self._notes()]

    def _manifest(self) -> str:
        one = self.manifest
        if one is None:
            return "manifest: none"
        if not one.valid:
            return f"manifest: does not hold ({printable(one.problem)})"
        trust = "whom you trust" if one.trusted else "whom nothing vouches for"
        what = "says generated" if one.generated else "does not say generated"
        return f"manifest: holds, signed by {printable(one.signer)}, {trust}; {what}"

    def _mark(self) -> str:
        found = self.found
        if not found.marked:
            return f"watermark: none found (p = {found.p:.1g})"
        at = "" if found.scale == 1 else f", at {found.scale:.3g} times the size"
        number = "" if found.number is None else f", number {found.number:08x}"
        doubt = "" if found.number is None or found.sure else " (perhaps misread)"
        return f"watermark: found (p = {found.p:.1g}{at}){number}{doubt}"

    def _notes(self) -> str:
        if self.notes is None:
            return "notes: none"
        mark = printable(str(self.notes.get(NOTE, "not mentioned")))[:64]
        version = printable(str(self.notes.get("version", "")))[:32] or "of no version"
        return f"notes: made by unclip {version}, watermark {mark}"

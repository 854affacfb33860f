"""Flags of the commands that write images: how these say that they were generated."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.interfaces.cli.outputs import check_file

if TYPE_CHECKING:
    from unclip.outputs.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class MarkingOptions:
    """Flags for the mark and the manifest of images that are written."""

    watermark: bool = True
    """Whether pixels carry a mark that says "generated", hardly seen at their size; notes say so if
    it is left out."""
    c2pa: Path | None = None
    """PEM file of certificates and key, with which a C2PA manifest is signed into each PNG; made
    where it is not there. Needs the extra provenance."""
    c2pa_prompt: bool = False
    """Say the prompt, or the command, in the manifest too."""

    def provenance(self) -> "Provenance":
        """How images are written.

        Raises:
            ValueError: the file holds no key that signs, or cannot be made.
        """
        from unclip.outputs.provenance import Provenance

        if self.c2pa is None:
            if self.c2pa_prompt:
                raise ValueError("--c2pa-prompt is said in a manifest: give --c2pa FILE")
            return Provenance(self.watermark)
        from unclip.outputs.manifest import open_identity

        check_file(self.c2pa)
        return Provenance(self.watermark, open_identity(self.c2pa), self.c2pa_prompt)

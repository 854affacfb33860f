"""The built-in world as a source: "emoji:shapes", "emoji:emoji", "emoji" for what its options say.

Its options are the fields of `WorldConfig`; kinds, size and split come from elsewhere.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from unclip.config import from_mapping
from unclip.data.captions import ENDLESS, Report
from unclip.data.registry import Request
from unclip.data.sources import Sample
from unclip.data.world.compose import EDITION
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.words import Subjects

_KINDS = ("shapes", "emoji")


def open_format(request: Request) -> "WorldSource":
    """See `registry.open_source`."""
    if request.place not in ("", *_KINDS):
        raise ValueError(
            f"unknown data {f'emoji:{request.place}'!r}; choose emoji, emoji:shapes or emoji:emoji"
        )
    options = {"kinds": _KINDS, **request.options, "size": request.size, "split": request.split}
    if request.place:
        options["kinds"] = (request.place,)
    if request.seed is not None:
        options["seed"] = request.seed
    return WorldSource(from_mapping(WorldConfig, options, "world"))


class WorldSource:
    """The built-in world: scene i is sample i, `ENDLESS` of them, each seen once.

    ValueError if the configuration needs a font that is not there.
    """

    endless = True

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.world = World(config)

    @property
    def subjects(self) -> Subjects:
        """What captions can ask for, by kind."""
        return self.world.subjects

    def __len__(self) -> int:
        return ENDLESS

    def unseen(self) -> "WorldSource | None":
        """The combinations that the training split leaves out; see `sources.HoldsOut`."""
        if self.config.split != "train":
            return None
        try:
            return WorldSource(replace(self.config, split="held-out", contrast=1))
        except ValueError:  # of so few shapes and colours none is left out
            return None

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < ENDLESS:
            raise IndexError(index)
        scene = self.world.scene(index)
        pixels = self.world.render(scene, self.config.size)  # (H, W, 3) uint8
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return {"image": image, "caption": scene.caption}

    def caption(self, index: int) -> str:
        """The scene's caption, without drawing it."""
        return self.world.scene(index).caption

    def captions(self) -> Iterator[str]:
        """Those of scenes 0, 1, 2, …"""
        return map(self.caption, range(ENDLESS))

    def check(self, decode: bool = False) -> Report:
        """Draws one scene, so that whatever is missing shows before training."""
        self[0]
        name = f"built-in world ({' and '.join(self.config.kinds)}, {self.config.split})"
        return Report(name, images=ENDLESS, usable=ENDLESS, captions=ENDLESS)

    def fingerprint(self) -> str:
        """Of the configuration, and of the rule that contrast groups are made by."""
        text = repr(self.config)
        if self.config.contrast > 1:
            text += f" groups {EDITION}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

"""The built-in captioned world: scenes of shapes and emoji, drawn as they are asked for.

`World(WorldConfig())[index]` is an image and its caption; `scene(index)` is the ground truth
behind them. The same configuration and index give the same scene on every machine, and for
shapes the same bytes. This module is the world's public face; the parts live in `emoji_*.py`:

scene (vocabulary and ground truth) < shapes < scenery < compose < layout, grammar, render < world
"""

from unclip.data.emoji_preview import preview
from unclip.data.emoji_scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PALETTE,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    STYLES,
    TEXTURES,
    Background,
    Object,
    Scene,
    WorldConfig,
    is_held_out,
    is_held_out_attribute,
    is_held_out_pair,
)
from unclip.data.emoji_world import World

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "PALETTE",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "STYLES",
    "TEXTURES",
    "Background",
    "Object",
    "Scene",
    "World",
    "WorldConfig",
    "is_held_out",
    "is_held_out_attribute",
    "is_held_out_pair",
    "preview",
]

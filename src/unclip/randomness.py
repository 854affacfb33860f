"""Random numbers that are the same under every Python and on every machine."""

from collections.abc import Sequence
from typing import Final, TypeVar

Item = TypeVar("Item")

_MASK64: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): 64 bits in, 64 scrambled bits out."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


class Draws:
    """A SplitMix64 stream of random integers, the same under every Python and on every machine."""

    __slots__ = ("state",)

    def __init__(self, *keys: int) -> None:
        state = 0
        for key in keys:
            state = mix((state + _GOLDEN) ^ (key & _MASK64))
        self.state = state

    def below(self, bound: int) -> int:
        """An integer in [0, bound), for bounds up to 2^32."""
        self.state = state = (self.state + _GOLDEN) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        return ((state ^ (state >> 31)) >> 32) * bound >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both included; `low` where the range is empty."""
        return low + self.below(high - low + 1) if high > low else low

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`, each as likely."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 calls."""
        return self.below(100) < percent


def text_hash(text: str) -> int:
    """64-bit FNV-1a of the text's UTF-8 bytes, scrambled; the same on every machine."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & _MASK64
    return mix(value)

"""Images of a folder that training does not see, and the model folder's note of how many.

Which ones they are follows from their names, so that they stay the same when images are added, and
that a larger fraction holds out those of a smaller one, and more.
"""

import hashlib

from unclip.checks import real_number, shown
from unclip.storage.folder import ModelFolder

NOTE = "_held_out"  # in the index: stage → fraction, and the rule
FEWEST = 8  # images held out, below which they are too few to measure anything on
RULE = "blake2b-32 of the path within the folder"


def place_of(name: str) -> int:
    """Where an image stands among all, in [0, 2^32); `name` is its path within the folder or
    archive, with "/"."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def is_held_out(name: str, fraction: float) -> bool:
    """Whether an image is held out: its place is below the fraction of all places."""
    return place_of(name) < fraction * 2**32


def note(folder: ModelFolder, stage: str, fraction: float | None) -> None:
    """Write into the model folder what fraction of its data a stage was not trained on.

    Args:
        fraction: 0 for none; None for data that is no folder.
    """
    stages = noted_in(folder)
    before = dict(stages)
    stages.pop(stage, None)
    if fraction is not None:
        stages[stage] = fraction
    if stages != before:
        folder.update_index({NOTE: {"rule": RULE, **stages}})


def settled(folder: ModelFolder, stage: str, given: float | None, default: float) -> float:
    """The fraction that a stage is to hold out: that of the model's CLIP, or of its other stages.

    Args:
        given: what the recipe says, if it says anything.
        default: where neither the recipe nor the folder does.

    Raises:
        ValueError: the recipe says another fraction than the folder. CLIP, which is trained first,
            may choose anew.
    """
    others = {name: fraction for name, fraction in noted_in(folder).items() if name != stage}
    whose = "clip" if "clip" in others else next(iter(others), None)
    if whose is None or (stage == "clip" and given is not None):
        return default if given is None else given
    if given not in (None, others[whose]):
        raise ValueError(
            f"data.held_out is {given:g}, but {whose} of {folder.path} was trained with "
            f"{others[whose]:g}: leave it out, so that no stage sees what another is measured on"
        )
    return others[whose]


def fraction_of(folder: ModelFolder, *stages: str) -> float:
    """The fraction that none of these stages was trained on (of all that are noted, if none is
    named); 0 where one saw all, or nothing is known.

    Raises:
        ValueError: the note is none that this version writes.
    """
    known = noted_in(folder)
    return min((known[stage] for stage in stages or known if stage in known), default=0.0)


def noted(folder: ModelFolder, stage: str) -> float | None:
    """What `note` has written of a stage; None for nothing."""
    return noted_in(folder).get(stage)


def noted_in(folder: ModelFolder) -> dict[str, float]:
    """Stage → the fraction that it was not trained on; nothing where there is no model yet.

    Raises:
        ValueError: the note is none that this version writes.
    """
    with folder.steady():
        if not folder.is_written():
            return {}
        there = folder.index().get(NOTE, {})
    where = f"{folder.path}: {NOTE}"
    if not isinstance(there, dict):
        raise ValueError(f"{where} is {shown(there)}; it must be an object")
    rule = there.get("rule", RULE)
    if rule != RULE:
        raise ValueError(f"{where} holds images out by {shown(rule)}; known is {RULE!r}")
    return {
        stage: real_number(fraction, f"{where}: {shown(stage)}", 0.0, 1.0)
        for stage, fraction in there.items()
        if stage != "rule"
    }

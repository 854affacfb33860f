"""Which components were trained with which, noted in the index: strangers are refused.

A prior or decoder is of use with the CLIP that it was trained with and with no other, although
another one's tensors may have the same shapes. The note `_trained_with` says for each component the
fingerprints of those that it belongs to. It is kept by `ModelFolder` whenever something is
published, from what lies in the folder: for the components that the paper has by the table below,
for those of a stage that somebody added by what it learned from. Folders without it, published or
older ones, are not checked; nor are weights in fp16, which round differently.
"""

from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from unclip.checks import shown
from unclip.files import read_safetensors
from unclip.storage.publishing import INDEX
from unclip.storage.weights import COUNTED, fingerprint_of, weight_files

NOTE = "_trained_with"
_CLIP = ("text_encoder", "image_encoder")
_TIES = {
    "image_encoder": ("text_encoder",),
    "prior": _CLIP,
    "autoregressive_prior": _CLIP,
    "decoder": (*_CLIP, "text_proj", "decoder_text_encoder", "decoder_masks"),
    "decoder_distilled": ("decoder", "text_proj", "decoder_text_encoder"),
}
_COMMANDS = {
    "image_encoder": "clip",
    "autoregressive_prior": "ar-prior",
    "decoder_distilled": "distilled-decoder",
}
_NEEDED = ("image_encoder", "prior", "decoder")  # a model can do without the others

Note = dict[str, dict[str, str]]


def print_of(component: Path) -> str:
    """A fingerprint of a component's plain weights, "" where there are none or none to compare."""
    try:
        parts = [read_safetensors(file) for file in weight_files(component)]
    except (ValueError, OSError):
        return ""
    if any(tensor.dtype == torch.float16 for part in parts for tensor in part.values()):
        return ""
    return fingerprint_of(
        {key: tensor for key, tensor in part.items() if not key.endswith(COUNTED)} for part in parts
    )


def renewed(
    index: Mapping[str, Any], there: Path, new: Path, learned_from: Collection[str] = ()
) -> Note:
    """The note for `index`, when the components in `new` join or replace those in `there`.

    A component that stays and has no note yet gets it now: it belongs to what is replaced.

    Args:
        learned_from: what the stage that wrote `new` learned from; it counts where none of its
            components is in the table.
    """
    note: Note = {}
    try:
        noted = _noted(index, there)
    except ValueError:  # no reason to lose what was trained
        noted = {}
    for owner, others in (_ties(noted) | _added(new, learned_from)).items():
        if not isinstance(index.get(owner), list):
            continue
        fresh, before = (new / owner).is_dir(), noted.get(owner, {})
        note[owner] = {} if fresh else dict(before)
        for other in others:
            replaced = (new / other).is_dir()
            if fresh and isinstance(index.get(other), list):
                found = print_of((new if replaced else there) / other)
            elif replaced and not fresh and other not in before:
                found = print_of(there / other)
            else:
                continue
            if found:
                note[owner][other] = found
    return {owner: tied for owner, tied in note.items() if tied}


def dependents(index: Mapping[str, Any], replaced: tuple[str, ...]) -> list[str]:
    """Components in the index that belong to some of those in `replaced`."""
    noted = index.get(NOTE)
    return [
        owner
        for owner, others in _ties(noted if isinstance(noted, dict) else {}).items()
        if isinstance(index.get(owner), list)
        and owner not in replaced
        and any(other in replaced for other in others)
    ]


def belongs_to(component: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    """What a component was trained with, of what the index names."""
    noted = index.get(NOTE)
    ties = _ties(noted if isinstance(noted, dict) else {}).get(component, ())
    return tuple(other for other in ties if isinstance(index.get(other), list))


def check_belonging(index: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder whose components were not trained with each other.

    Raises:
        ValueError: naming both, and the command that mends it.
    """
    for owner, tied in _noted(index, folder).items():
        if not (isinstance(index.get(owner), list) and (folder / owner).is_dir()):
            continue
        for other, wanted in tied.items():
            if not isinstance(index.get(other), list):
                continue
            found = print_of(folder / other)
            if found and found != wanted:
                spare = "" if owner in _NEEDED else f", or delete {folder / owner}"
                raise ValueError(
                    f"{folder}: the {owner} was trained with another {other} than is there now; "
                    f"train it anew ({_command(owner, index)})"
                    f"{spare}"
                )


def _ties(noted: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What each component belongs to: by the table, and by the note where it is in no table."""
    added = {owner: tuple(tied) for owner, tied in noted.items() if isinstance(tied, dict)}
    return {**added, **_TIES}


def _added(new: Path, learned_from: Collection[str]) -> dict[str, tuple[str, ...]]:
    """What the components of a stage that is in no table belong to."""
    written = [path.name for path in new.iterdir()] if new.is_dir() else []
    if any(name in _TIES for name in written):
        return {}
    return {
        name: tuple(learned_from)
        for name in written
        if name not in learned_from and any((new / name).glob("*.safetensors"))
    }


def _command(owner: str, index: Mapping[str, Any]) -> str:
    """What trains a component anew."""
    if owner not in _TIES:
        return "--overwrite"
    stage, note = _COMMANDS.get(owner, owner), index.get(f"_{owner}")
    if stage == _COMMANDS["decoder_distilled"] and isinstance(note, dict) and "steps" in note:
        stage = "few-step-decoder"
    return f"unclip train {stage} --overwrite"


def check_unchanged(folder: Path, wanted: Mapping[str, str]) -> None:
    """Refuse to publish into a folder whose components are no longer those learned from.

    Args:
        wanted: their fingerprints.

    Raises:
        ValueError: one of them was replaced meanwhile.
    """
    for name, print_ in wanted.items():
        found = print_of(folder / name)
        if found and print_ and found != print_:
            raise ValueError(
                f"the {name} of {folder} was replaced while this was trained with the one before; "
                "train it anew with --overwrite"
            )


def _noted(index: Mapping[str, Any], folder: Path) -> Note:
    note = index.get(NOTE, {})
    good = isinstance(note, dict) and all(
        isinstance(tied, dict) and all(isinstance(text, str) and text for text in tied.values())
        for tied in note.values()
    )
    names = {*note, *chain.from_iterable(note.values())} if good else ()
    good = good and all(name == Path(name).name for name in names)
    if not good or not all(set(tied) <= set(_TIES.get(o, tied)) for o, tied in note.items()):
        raise ValueError(
            f"{folder / INDEX}: {NOTE} is {shown(note)}; it must say a fingerprint for each "
            "component that another belongs to"
        )
    return dict(note)

"""What blends, edits and probes have in common: images decoded from embeddings that were found in
others, all with the noise of one seed, or with the images' own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import line_of, words_of
from unclip.interfaces.web.tabs.form import Given, Picture, inversion, sees_images
from unclip.pipeline.latent_space import Points
from unclip.pipeline.settings import Settings
from unclip.pipeline.together import Planned, Wanted, Watch, decoded_from


def moved(
    given: Given,
    command: str,
    pictures: Sequence[Picture],
    flags: Mapping[str, Any],
    find: Callable[[Tensor, Tensor | None], Points],
    labels: Sequence[str],
    python: str,
    *,
    inverts: bool = False,
    edits: bool = False,
    steps: int = 100,
    **more: Any,
) -> Work:
    """Work that decodes what `find` makes of the pictures' (z_i, x_T).

    Args:
        command: of the command line, with its flags.
        inverts: whether x_T is the images' own, found in so many steps.
        edits: whether they are then changed.
        more: of `Work`.
    """
    desk = given.desk
    sees_images(desk)
    settings = given.settings.for_reconstruction(steps, edits) if inverts else given.settings
    row = Planned(desk.pipe, Wanted(settings, given.seed, z_i=torch.zeros(1)))
    words = words_of(
        desk, command, [one.name for one in pictures], flags, given.seed, given.settings
    )
    info = {"command": words, "seed": given.seed, **given.notes()}

    def latents(watch: Watch) -> Points:
        if inverts:
            found = [inversion(given, one, steps, watch) for one in pictures]
            return find(
                torch.cat([one.z_i for one in found]), torch.cat([one.x_T for one in found])
            )
        return find(desk.pipe.embed_images([one.image for one in pictures]).cpu(), None)

    unknown = [
        one for one in pictures if not given.memory.holds(("latents", one.digest, steps))
    ] if inverts else []  # fmt: skip
    stem = "-".join(one.stem for one in pictures)[:60]
    return Work(
        labels=labels,
        alts=[f"{command} of {stem}, {label}" for label in labels],
        items=lambda found: planned(given, settings, found),
        steps=row.steps * len(labels) + steps * len(unknown),
        command=line_of({"command": words}),
        python=python,
        infos=[info] * len(labels),
        names=[f"{stem}-{command}-{number}" for number in range(len(labels))],
        find=latents,
        **more,
    )


def planned(given: Given, settings: Settings, found: Points) -> list[Planned]:
    """The rows of what was found, one noise for all."""
    wanted = decoded_from(found, settings, [given.seed] * len(found.z_i))
    return [Planned(given.desk.pipe, one) for one in wanted]

"""What variations and repainted images have in common: made of one that was given, a seed each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unclip.checks import seed_after
from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import line_of, words_of
from unclip.interfaces.web.tabs.form import Given, Picture
from unclip.pipeline.together import Planned, Wanted


def seeded(
    given: Given,
    command: str,
    picture: Picture,
    files: Sequence[str],
    flags: Mapping[str, Any],
    wanted: Callable[[int], Wanted],
    done: str,
    python: str,
    **more: Any,
) -> Work:
    """Work that makes as many images as were asked for.

    Args:
        command: of the command line, with what stands in it without a flag, and its flags.
        wanted: the image of a seed.
        done: what an image is, for those who do not see it; its seed follows.
        more: of `Work`.
    """
    desk, count = given.desk, given.count()
    seeds = [seed_after(given.seed, number) for number in range(count)]
    rows = [Planned(desk.pipe, wanted(seed)) for seed in seeds]

    def words(count: int, seed: int) -> list[str]:
        return words_of(desk, command, files, {"n": count, **flags}, seed, given.settings)

    return Work(
        labels=[f"seed {seed}" for seed in seeds],
        alts=[f"{done}, seed {seed}" for seed in seeds],
        items=lambda _: rows,
        steps=sum(row.steps for row in rows),
        command=line_of({"command": words(count, given.seed)}),
        python=python,
        infos=[{"command": words(1, seed), "seed": seed, **given.notes()} for seed in seeds],
        names=[f"{picture.stem}-{command}-{seed}" for seed in seeds],
        shown=[("the image", picture.image)],
        **more,
    )

"""`unclip probe`: what each principal component of the embeddings adds to an image (section 4)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from unclip.checks import many
from unclip.interfaces.cli.manipulations import (
    InversionOptions,
    call_arguments,
    pictures,
    read,
    write,
)
from unclip.interfaces.cli.numbers import Count, Width
from unclip.interfaces.cli.options import parse


@dataclass(frozen=True, kw_only=True)
class Probe(InversionOptions):
    """Decode an image's embedding from more and more of its principal components."""

    image: tyro.conf.Positional[Path]
    """A picture of any kind and size, or a file that `unclip invert` wrote of one."""
    components: tuple[Width, ...] | None = None
    """How many, for each image that is made; if left out, the paper's (20 to 320) and all."""
    data: str = "emoji:shapes"
    """What the components are of: the built-in world (emoji:shapes), a folder of images or other
    data, as `unclip train --data` takes it, or a file that `unclip embed` wrote."""
    samples: Count = 512
    """Images of --data, at most, drawn by a fixed seed; fewer than the embeddings' width leave
    components without use."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip probe` say, and give the exit code."""
    options = parse(Probe, "probe", arguments)
    started = time.perf_counter()
    from unclip.interfaces.cli.commands.embed import embeddings_of
    from unclip.networks.pca import Components, Moments
    from unclip.pipeline.manipulations import probed

    provenance = options.check()
    images = read([options.image])
    if len(images) > 1:
        raise ValueError(
            f"{options.image} holds {many(len(images), 'images')}; components are probed of one"
        )
    pipe = options.open()
    width = pipe.clip.width
    counts = options.components or probed(width)
    for count in counts:
        if not 0 <= count <= width:
            raise ValueError(f"{count} components were asked for; this model has {width}")
    z_all = embeddings_of(pipe, options.data, options.samples, options.template)
    basis = Components.of(Moments.of(z_all))
    images = options.start(pipe, images)
    one = images if not isinstance(images, list) else images[0]
    with call_arguments(options, pipe, images, len(counts)) as arguments_:
        made = pipe.probe(one, z_all, counts, **arguments_)
    labels = [f"{count}: {100 * basis.explained(count):.1f} %" for count in counts]
    write(
        [made.images],
        [],
        labels,
        options,
        ["probe", *arguments],
        pipe,
        started,
        provenance,
        made_from=pictures([options.image]),
    )
    return 0

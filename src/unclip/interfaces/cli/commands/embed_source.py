"""`unclip embed SOURCE -o DIR`: the embeddings of captioned data, for training to read them
(`--data.embeddings`).
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.checks import many, printable
from unclip.device.processes import this_process
from unclip.interfaces.cli.outputs import check_folder
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from unclip.data.embeddings import Plan
    from unclip.interfaces.cli.commands.embed import Embed
    from unclip.stages.conditioning import FrozenCLIP

_KEPT = ("fp32", "bf16")  # what embeddings are computed in


def embed_source(options: "Embed", name: str) -> int:
    """Write the embeddings of the data of this name; under torchrun, this process's shards."""
    started = time.perf_counter()
    from unclip.data.captions import UNREADABLE, counted
    from unclip.data.embedded import pictures_in
    from unclip.data.embeddings import Plan, parts_of, shard_file
    from unclip.data.mixture import Mixture
    from unclip.data.registry import format_of
    from unclip.device.names import usual
    from unclip.device.precision import DTYPES, dtype_named, name_of
    from unclip.interfaces.cli.sources import in_own_words, open_named
    from unclip.stages.embedding import Computer, claim, missing

    rank, processes = this_process()
    precision = str(usual(options.precision))
    if precision not in ("auto", *_KEPT):
        raise ValueError(f"embeddings are computed in {' or '.join(_KEPT)}, not in {precision}")
    check_folder(options.output)
    if format_of(name).alone:
        raise ValueError(f"{printable(name)} is drawn without end: it has no images to embed")
    clip = _clip(options)
    assert clip.image_encoder is not None
    size = options.size or clip.image_encoder.config.image_size
    source = open_named(name, size=size, split="all", template=options.template)
    sources = pictures_in(source, name)
    if not rank:
        print(in_own_words(str(source.check())), flush=True)
    precision = name_of(dtype_named(precision, clip.device))
    wanted = Plan(
        name,
        size,
        clip.fingerprints(),
        clip.width,
        precision if options.hidden_states else "",
        precision,
        options.images_per_shard,
        parts_of(sources),
        tuple(map(str, source.weights)) if isinstance(source, Mixture) else (),
    )
    plan = claim(options.output, wanted, sources, measured=usual(options.precision) == "auto")
    if processes > plan.shards and not rank:
        idle = f"{many(processes, 'processes')} for {many(plan.shards, 'shards')}"
        print(f"{idle}: some do nothing; --images-per-shard makes smaller ones", file=sys.stderr)
    mine = range(rank, plan.shards, processes)
    todo = missing(options.output, plan, mine, lambda said: print(said, file=sys.stderr))
    unreadable: list[str] = []
    rows = sum(len(plan.rows(shard)) for shard in todo)
    with ThreadPoolExecutor(options.workers) as pool, progress_bar(rows) as bar:
        computer = Computer(clip, plan, sources, DTYPES[plan.precision], options.batch_size, pool)
        for shard in todo:
            unreadable += computer.write(options.output, shard, bar.update)
    for line in counted({UNREADABLE: unreadable} if unreadable else {}):
        print(f"not embedded: {line}", file=sys.stderr)
    took = time.perf_counter() - started
    kept = f" ({len(mine) - len(todo):,} were there)" if len(todo) < len(mine) else ""
    print(f"{many(len(todo), 'shards')} written in {took:.1f} s{kept}", flush=True)
    files = [shard_file(options.output, shard) for shard in range(plan.shards)]
    if all(file.is_file() for file in files):
        print(_said(plan, options.output, sum(file.stat().st_size for file in files)), flush=True)
    return 0


def _clip(options: "Embed") -> "FrozenCLIP":
    """The CLIP of the model that the flags name, in fp32, on the device of this process.

    Raises:
        ValueError: there is none, or it has no image encoder.
    """
    import torch

    from unclip.device.precision import device_of_process
    from unclip.interfaces.cli.evaluations.shared import open_folder
    from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP

    device = device_of_process(options.device)
    folder = open_folder(options.model, CLIP_COMPONENTS, options.revision, options.variant)
    if not (folder.has("text_encoder") and folder.has("image_encoder")):
        raise ValueError(
            f"{printable(str(folder.path))} has no CLIP with an image encoder to embed with; "
            "`unclip train clip` trains one"
        )
    with folder.steady():
        return FrozenCLIP.load(folder, torch.float32).to(device)


def _said(plan: "Plan", folder: Path, size: int) -> str:
    hidden = ", with hidden states" if plan.hidden else ""
    return (
        f"{many(plan.images, 'images')} of {plan.size} px and {many(plan.captions, 'captions')}"
        f"{hidden}: {printable(str(folder))} ({many(plan.shards, 'shards')}, "
        f"{size / 2**20:,.1f} MiB)\n"
        f"train with them: unclip train prior --data.embeddings {printable(str(folder))}"
    )

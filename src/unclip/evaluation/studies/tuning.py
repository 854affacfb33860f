"""Which sampler, guidance and number of candidates suit a model: tried on captions held out, measured
by its own CLIP (`metrics/likeness.py`), and written into the model folder.

One thing is changed at a time, from what the folder says now: the decoder's sampler, its guidance,
the prior's guidance, candidates and sampler, the other prior; a second time around where something
was found. Every choice makes images of the same captions from the same noise. One is taken that is
better than what was there by more than the standard error over captions; ties stay as they were. The
best of many looks better than it is, so that what was found is measured once more, on other captions
and noise, and written only if it is better there too.

The upsamplers stay as they are: images are made at the decoder's size.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip import __version__
from unclip.checks import counted_noun, printable
from unclip.data.captions import ENDLESS
from unclip.data.held_out import fraction_of
from unclip.data.registry import format_of, open_source, parse
from unclip.data.sources import Source, Stream, length, read
from unclip.data.trained_on import data_of
from unclip.diffusion.registry import SAMPLERS
from unclip.evaluation.metrics.likeness import LEAST, Likeness, Real
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.pixels import to_signed
from unclip.stages.catalogue import STAGES, prior_kinds
from unclip.stages.suiting import DEFAULTS, SAYS, TUNED
from unclip.storage.folder import ModelFolder

Says = Mapping[str, Any]
"""What a model folder would say of itself, by the pipeline's argument names."""
Report = Callable[[str], None]
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Guidance that is tried."""
CANDIDATES = (1, 2, 4)
MOST = 32
"""Captions, where nobody says how many."""
_FEWEST = 8  # of those, where the time is short
_IMAGES = 2  # of a caption
_TRIES = 20  # that a time should be enough for
_BATCH = 16  # images computed at once
_CANDIDATES, _INDEX_CANDIDATES = "prior_num_candidates", "_prior_num_candidates"


@dataclass(frozen=True)
class Measured:
    """Captioned images to measure on, and others to measure again."""

    captions: list[str]
    images: Tensor  # (N, 3, H, W) in [-1, 1], at the decoder's size
    said: str  # which they are
    split: str
    data: str


@dataclass
class Study:
    """A model under way through its choices.

    Attributes:
        deadline: `time.monotonic` after which nothing more is tried.
        rows: what was tried, with what it gave, in order.
    """

    pipe: Pipeline
    real: Real
    seed: int
    report: Report
    deadline: float = float("inf")
    rows: list[tuple[str, Likeness]] = field(default_factory=list)
    _known: dict[Any, Likeness] = field(default_factory=dict)
    _cost: float = 0.0  # seconds of the last
    late: bool = False

    def measure(self, says: Says) -> Likeness:
        """How like the real images the model's are if it says this of itself."""
        key = tuple(sorted(says.items()))
        if key not in self._known:
            begun = time.monotonic()
            images = made(self.pipe, self.real.captions, says, self.seed)
            z_i = torch.cat([self.pipe.clip.image(part.to(self.pipe.device))
                             for part in images.flatten(0, 1).split(_BATCH)])  # fmt: skip
            z_i = z_i.to(images.device).unflatten(0, images.shape[:2])
            self._known[key] = self.real.measure(images, z_i)
            self._cost = time.monotonic() - begun
        return self._known[key]

    def in_time(self, says: Says) -> bool:
        """Whether one more can be tried, and what was found be measured again."""
        if tuple(sorted(says.items())) not in self._known:
            self.late = self.late or time.monotonic() + 3 * self._cost > self.deadline
        return not self.late

    def chosen(self, says: Says, changes: Sequence[Says]) -> Says:
        """What is said with the best of these changes, or as it is."""
        there, best = self.measure(says), says
        for change in changes:
            other = {**says, **change}
            if other == says:
                continue
            if not self.in_time(other):
                break
            found = self.measure(other)
            self.tell(words(change), found, there)
            if found.score < self.measure(best).score:
                best = other
        gain, error = self.measure(best).less_than(there)
        return best if gain > error else says

    def tell(self, what: str, found: Likeness, there: Likeness | None = None) -> None:
        """A line of what was tried, against what was there."""
        self.rows.append((what, found))
        line = f"{what:<34} {_numbers(found)}"
        if there is not None:
            gain, error = found.less_than(there)
            line += f"   {'better' if gain > 0 else 'worse'} by {abs(gain):.3f} ± {error:.3f}"
        self.report(line)


def tune(
    folder: Path,
    data: str | None,
    *,
    seconds: float | None,
    report: Report,
    device: str = "auto",
    captions: int | None = None,
    seed: int = 0,
    write: bool = True,
) -> Mapping[str, Any]:
    """Find what suits the model of a folder, and write it there, whole or not at all.

    Args:
        data: captioned images, by name; what the folder says that it was trained on, if left out.
        seconds: that it should take at most; with None, everything is tried.
        report: gets a line of each choice that was tried, and what came of it at the end.
        captions: how many are measured on; if left out, 32, or as many as the time is enough for.
        seed: of the noise, and of which captions are taken.
        write: whether the folder is changed.

    Returns:
        `says`, what the folder says now (or would), `before` and `after`, the scores of what was
        there and of what was found, `better` and `error`, by how much, with the standard error
        (measured again, on other captions where there are some), and what it was measured on.

    Raises:
        ValueError: there is nothing to measure with or on; the folder was changed meanwhile.
    """
    begun = time.monotonic()
    model = ModelFolder(folder)
    pipe = Pipeline.from_pretrained(folder, device=device)
    if pipe.clip.image_encoder is None:
        raise ValueError(f"{folder} has no image_encoder, which tuning measures images with")
    pipe.prior_for(Settings()) if pipe.decoder.needs_prior else None
    name, options = _data(model, data)
    source, split, said = _opened(model, name, options, pipe.decoder.size)
    count = captions or _affordable(pipe, source, seconds)
    first, again = _sets(source, pipe.decoder.size, count, seed, split)
    report(f"measuring on {said}: {counted_noun(len(first[0]), 'caption')}, {_IMAGES} images each")
    says, known = present(pipe), pipe.fingerprint
    study = Study(pipe, _real(pipe, *first), seed, report)
    if seconds is not None:
        study.deadline = begun + seconds
    start = study.measure(says)
    study.tell("as it is", start)
    best = swept(study, says)
    if study.late:
        report("the time is up: what is not listed was not tried; --budget gives more")
    confirmed = Study(pipe, _real(pipe, *again), seed + 2**20, report)
    result = _result(confirmed, says, best, start)
    _conclude(study, result, says, report)
    result |= {
        "captions": len(first[0]), "images": _IMAGES * len(first[0]), "data": _named(name),
        "split": split, "seed": seed, "unclip": __version__,
    }  # fmt: skip
    if write:
        _write(model, known, result)
        report(f"written into {printable(str(folder))}")
    return result


# ---- what is tried -------------------------------------------------------------------------------


def present(pipe: Pipeline) -> dict[str, Any]:
    """What the model says of itself, of each stage that is tuned."""
    settings = Settings()
    found: dict[str, Any] = {}

    def of(stage: str, prefix: str, how: Settings, by_diffusion: bool) -> None:
        sampling = pipe.sampling(stage, how)
        found[f"{prefix}_guidance_scale"] = sampling.guidance.scale
        if by_diffusion:
            found.update({f"{prefix}_sampler": sampling.sampler, f"{prefix}_eta": sampling.eta})

    of("decoder", "decoder", settings, True)
    if not pipe.decoder.needs_prior:
        return found
    for kind in pipe.priors:
        of("prior", prefix_of(kind), Settings(prior=kind), _is_diffusion(pipe, kind))
    found["prior"] = next(kind for kind, one in pipe.priors.items()
                          if one is pipe.prior_for(settings))  # fmt: skip
    if hasattr(getattr(pipe.prior, "settings", None), "candidates"):
        found[_CANDIDATES] = pipe.prior.settings.candidates  # type: ignore[union-attr]
    return found


def prefix_of(kind: str) -> str:
    """What the arguments begin with that are about a kind of prior."""
    return "prior" if kind == prior_kinds()[0] else f"{kind}_prior"


def _is_diffusion(pipe: Pipeline, kind: str) -> bool:
    return hasattr(pipe.priors[kind], "process")


def swept(study: Study, says: Says) -> Says:
    """What the sweep ends with."""
    for _ in range(2):
        before = says
        for changes in coordinates(study.pipe, says):
            says = study.chosen(says, changes)
        for kind in study.pipe.priors if study.pipe.decoder.needs_prior else ():
            if kind != says["prior"]:
                says = _with_other_prior(study, says, kind)
        if says == before or study.late:
            break
    return says


def _with_other_prior(study: Study, says: Says, kind: str) -> Says:
    """The guidance of a prior that the model does not draw with, and whether it should."""
    other = {**says, "prior": kind}
    if not study.in_time(other):
        return says
    scale = f"{prefix_of(kind)}_guidance_scale"
    study.tell(f"{kind} prior", study.measure(other), study.measure(says))
    other = study.chosen(other, [{scale: one} for one in SCALES])
    gain, error = study.measure(other).less_than(study.measure(says))
    return other if gain > error else {**says, scale: other[scale]}


def coordinates(pipe: Pipeline, says: Says) -> Iterator[list[Says]]:
    """Changes of one thing at a time, what matters most first.

    Where the decoder has a student, guidance is what the student knows: `fast` needs it.
    """
    student = pipe.decoder.student is not None
    yield _samplers("decoder", says)
    yield [{"decoder_guidance_scale": scale} for scale in SCALES
           if not student or pipe.decoder.distils(scale)]  # fmt: skip
    if not pipe.decoder.needs_prior:
        return
    prefix = prefix_of(says["prior"])
    yield [{f"{prefix}_guidance_scale": scale} for scale in SCALES]
    if _is_diffusion(pipe, says["prior"]):
        yield [{_CANDIDATES: count} for count in CANDIDATES if _CANDIDATES in says]
        yield _samplers(prefix, says)


def _samplers(prefix: str, says: Says) -> list[Says]:
    """Those that ask the network once a step, with all their noise and without."""
    return [
        {f"{prefix}_sampler": name, f"{prefix}_eta": eta}
        for name, row in SAMPLERS.items()
        if row.evaluations == 1
        for eta in ((0.0, 1.0) if row.takes_eta else (says[f"{prefix}_eta"],))
    ]


def made(pipe: Pipeline, captions: Sequence[str], says: Says, seed: int) -> Tensor:
    """Images (N, M, 3, H, W) of the decoder's size, by a model that says this of itself; image m of
    caption n has a stream of noise of its own."""
    before = pipe.defaults
    prompts = [caption for caption in captions for _ in range(_IMAGES)]
    asked = {_CANDIDATES: says[_CANDIDATES]} if says.get("prior") == prior_kinds()[0] else {}
    try:
        own = {key: value for key, value in says.items() if key != _CANDIDATES}
        pipe.defaults = {**before, **own}
        images: Tensor = pipe(
            prompts,
            generator=[torch.Generator().manual_seed(seed + k) for k in range(len(prompts))],
            output_type="pt", size=pipe.decoder.size, batch_size=_BATCH, **asked,
        ).images  # fmt: skip
    finally:
        pipe.defaults = before
    return images.unflatten(0, (len(captions), _IMAGES))


def words(change: Says) -> str:
    """A change as a line calls it."""
    said = []
    for key, value in change.items():
        stage = key.removesuffix("_guidance_scale").removesuffix("_sampler").replace("_", " ")
        if key.endswith("_guidance_scale"):
            said.append(f"{stage} guidance {value:g}")
        elif key.endswith("_sampler"):
            takes = SAMPLERS[value].takes_eta
            eta = f", η = {change[key.replace('_sampler', '_eta')]:g}" if takes else ""
            said.append(f"{stage} by {value}{eta}")
        elif key == _CANDIDATES:
            said.append(f"prior of {counted_noun(value, 'candidate')}")
        elif key == "prior":
            said.append(f"{value} prior")
    return ", ".join(said)


# ---- what it is measured on ----------------------------------------------------------------------


def _data(model: ModelFolder, given: str | None) -> tuple[str, Mapping[str, Any]]:
    """Name and options of the data that a model is measured on."""
    stages = ("decoder", *STAGES)
    noted = data_of(model, stages)
    if noted is not None and (given is None or parse(given)[0] == parse(noted[0])[0]):
        return given or noted[0], noted[1]
    if given is None:
        raise ValueError(
            f"{model.path} does not say what it was trained on; give captioned images that it was "
            "not trained on, or the folder that it was, with --data"
        )
    return given, {}


def _opened(
    model: ModelFolder, name: str, options: Mapping[str, Any], size: int
) -> tuple[Source | Stream, str, str]:
    """The data, its split, and both in words: what no stage was trained on, where that is known."""
    kind = format_of(name)
    fraction = fraction_of(model) if kind.holds_out == "fraction" else 0.0
    split = "held-out" if fraction or kind.holds_out == "itself" else "all"
    source = open_source(
        name, size=max(size, kind.smallest), split=split, held_out=fraction, options=options
    )
    many = length(source)
    some = f"{many:,} images of " if many < ENDLESS else ""
    if kind.holds_out == "itself":
        return source, split, f"held-out scenes of {printable(name)}"
    if fraction:
        held = f"the {100 * fraction:g} % that training held out"
        return source, split, f"{some}{printable(name)}, {held}"
    return source, split, f"{some}{printable(name)}, which the model may have been trained on"


def _affordable(pipe: Pipeline, source: Source | Stream, seconds: float | None) -> int:
    """How many captions there is time for, by the time that a few images take."""
    if seconds is None:
        return MOST
    captions = [sample["caption"] for sample in read(source, range(min(4, length(source))))]
    says = present(pipe)
    for _ in range(2):  # the first is slower
        begun = time.monotonic()
        made(pipe, captions, says, 0)
        took = time.monotonic() - begun
    return max(_FEWEST, min(MOST, int(seconds * len(captions) / (took * _TRIES))))


Captioned = tuple[list[str], Tensor]


def _sets(
    source: Source | Stream, size: int, count: int, seed: int, split: str
) -> tuple[Captioned, Captioned]:
    """Captioned images to measure on, and as many others to measure again; the same where there
    are too few."""
    there = length(source)
    if there < LEAST:
        raise ValueError(
            f"there are {there} captioned images to measure on ({split}); it takes {LEAST} or more"
        )
    count = min(count, there)
    wanted = range(min(2 * count, there))
    shuffled = torch.Generator().manual_seed(seed % 2**63)
    random = there < ENDLESS and not isinstance(source, Stream)
    order = torch.randperm(there, generator=shuffled).tolist()[: len(wanted)] if random else wanted
    samples = list(read(source, order))
    captions = [sample["caption"] for sample in samples]
    images = to_signed(torch.stack([sample["image"] for sample in samples]))
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="area")
    first = captions[:count], images[:count]
    again = (captions[count:], images[count:]) if len(captions) == 2 * count else first
    return first, again


def _real(pipe: Pipeline, captions: list[str], images: Tensor) -> Real:
    z_i = pipe.clip.image(images.to(pipe.device)).cpu()
    return Real.of(images, z_i, pipe.clip.text(captions).z_t.cpu(), captions)


def _named(data: str) -> str:
    """Data for the folder's note, which others may read: a path is nobody's business."""
    return data if format_of(data).alone else f"a {parse(data)[0]}"


# ---- what comes of it ----------------------------------------------------------------------------


def _result(again: Study, says: Says, best: Says, start: Likeness) -> dict[str, Any]:
    """What was there, and what was found, measured again."""
    if best == says:
        return {SAYS: dict(says), "before": start.score, "after": start.score,
                "better": 0.0, "error": 0.0, "found": {}}  # fmt: skip
    there, found = again.measure(says), again.measure(best)
    gain, error = found.less_than(there)
    changed = {key: value for key, value in best.items() if value != says.get(key)}
    taken = gain > 0
    return {
        SAYS: dict(best if taken else says), "before": there.score,
        "after": found.score if taken else there.score,
        "better": gain, "error": error, "found": changed,
    }  # fmt: skip


def _conclude(study: Study, result: Mapping[str, Any], says: Says, report: Report) -> None:
    """The table, best first, and what came of it."""
    report(f"\n{'the best that were tried':<34} {'score':>7} {'distance':>9} {'missed':>7}")
    for what, found in sorted(study.rows, key=lambda row: row[1].score)[:8]:
        report(f"{what:<34} {_numbers(found)}")
    found, gain, error = result["found"], result["better"], result["error"]
    if not found:
        report("\nnothing suits the model better than what is there")
        return
    pairs = f"{result['before']:.3f}"
    if gain > 0:
        report(
            f"\n{words(_whole(found, result[SAYS]))}: measured again, {result['after']:.3f} against "
            f"{pairs} before, better by {gain:.3f} ± {error:.3f}"
        )
    else:
        report(
            f"\n{words(_whole(found, {**says, **found}))}: measured again, worse by {-gain:.3f} ± "
            f"{error:.3f}, so that everything stays as it is"
        )


def _whole(changed: Says, says: Says) -> Says:
    """Changes with the sampler that a changed η belongs to, and the η of a changed sampler."""
    stages = {key.removesuffix(end) for key in changed for end in ("_sampler", "_eta")
              if key.endswith(end)}  # fmt: skip
    pairs = {f"{stage}_{name}": says[f"{stage}_{name}"] for stage in stages
             for name in ("sampler", "eta")}  # fmt: skip
    return {**changed, **pairs}


def _numbers(found: Likeness) -> str:
    parts = (float(found.distance.mean()), float(found.missed.mean()))
    return f"{found.score:7.3f} {parts[0]:9.3f} {parts[1]:7.3f}"


def _write(model: ModelFolder, known: str, result: Mapping[str, Any]) -> None:
    """Put what was found into the folder's index, and how; what others say there stays."""
    says = dict(result[SAYS])
    with model.publishing():
        now = model.fingerprint("decoder", "text_proj", "text_encoder", "image_encoder")
        if now != known:
            raise ValueError(f"{model.path} was trained further meanwhile; tune it again")
        entries: dict[str, Any] = {}
        if _CANDIDATES in says:
            entries[_INDEX_CANDIDATES] = says.pop(_CANDIDATES)
        there = model.index().get(DEFAULTS, {})
        how = {key: round(value, 4) if isinstance(value, float) else value
               for key, value in result.items() if key not in (SAYS, "found")}  # fmt: skip
        model.update_index({**entries, DEFAULTS: {**there, **says}, TUNED: {SAYS: says, **how}})

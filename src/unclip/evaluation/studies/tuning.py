"""Which sampler, guidance and number of candidates suit a model: tried on held-out captions,
measured by its own CLIP (`metrics/likeness.py`), and written into the model folder.

One thing is changed at a time, from what the folder says now: the decoder's sampler, its guidance,
the prior's guidance, candidates and sampler, the other prior; a second time around where something
was found. Every choice makes images of the same captions from the same noise. One is taken that is
better than what was there by more than the standard error over captions; ties stay as they were.
The best of many looks better than it is, so that what was found is measured once more, on other
captions and noise, and written only if it is better there too.

The upsamplers stay as they are: images are made at the decoder's size.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip import __version__
from unclip.checks import Notice, many, printable, seed_after, whole_number
from unclip.diffusion.registry import SAMPLERS
from unclip.evaluation.metrics.likeness import LEAST, Likeness, Real, Seen
from unclip.evaluation.studies.captioned import Unseen
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import UPSAMPLING, Settings
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
_TRIES = 24  # that a time should be enough for
_BATCH = 16  # images computed at once
_CANDIDATES, _INDEX_CANDIDATES = "prior_num_candidates", "_prior_num_candidates"


@dataclass
class Study:
    """A model under way through its choices.

    Attributes:
        deadline: `time.monotonic` after which nothing more is tried.
        late: whether something was left out for that.
        tried: how many changes were measured.
    """

    pipe: Pipeline
    real: Real
    seed: int
    report: Report
    deadline: float = float("inf")
    late: bool = False
    tried: int = 0
    _seen: dict[Any, Seen] = field(default_factory=dict)
    _cost: float = 0.0  # seconds of a whole measurement

    def measure(self, says: Says, against: Likeness | None = None) -> Likeness:
        """How like the real images the model's are if it says this of itself.

        Args:
            against: what it must not be clearly worse than on half of the captions, to be measured
                on all of them.
        """
        key, count = _key(says), len(self.real.z_i)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = self._see(says, 0, (count + 1) // 2)
        found = self.real.measure(seen)
        half = len(seen.z_i) < count
        if half and (against is None or not _clearly_worse(found, against)):
            seen = self._seen[key] = seen + self._see(says, len(seen.z_i), count)
            found = self.real.measure(seen)
        return found

    def _see(self, says: Says, first: int, last: int) -> Seen:
        """Images of some of the captions."""
        begun = time.monotonic()
        seed = seed_after(self.seed, _IMAGES * first)
        images = made(self.pipe, self.real.captions[first:last], says, seed)
        flat, clip = images.flatten(0, 1), self.pipe.clip
        parts = [flat[i : i + _BATCH] for i in range(0, len(flat), _BATCH)]
        z_i = torch.cat([clip.image(part.to(self.pipe.device)).cpu() for part in parts])
        self._cost = (time.monotonic() - begun) * len(self.real.z_i) / (last - first)
        return self.real.seen(images, z_i.view(*images.shape[:2], -1))

    def in_time(self, says: Says) -> bool:
        """Whether one more can be tried, and what was found be measured again."""
        if _key(says) not in self._seen:
            self.late = self.late or time.monotonic() + 3 * self._cost > self.deadline
        return not self.late

    def chosen(self, says: Says, changes: Sequence[Says]) -> Says:
        """What is said with the best of those changes that are surely better, or as it is."""
        there, best = self.measure(says), says
        for change in changes:
            other = {**says, **change}
            if other == says:
                continue
            if not self.in_time(other):
                break
            found = self.measure(other, there)
            self.tell(words(change), found, there)
            if self.better(other, says) and found.score < self.measure(best).score:
                best = other
        return best

    def better(self, says: Says, there: Says) -> bool:
        """Whether it is, by more than the standard error over all captions."""
        before = self.measure(there)
        found = self.measure(says, before)
        gain, error = found.less_than(before)
        return gain > error and len(found.scores) == len(before.scores)

    def tell(self, what: str, found: Likeness, there: Likeness | None = None) -> None:
        """A line of what was tried, against what was there."""
        self.tried += there is not None
        far, missed, unlike = (float(part.mean()) for part in vars(found).values())
        line = f"{what:<36} {found.score:6.3f} = {far:.3f} + {missed:.3f} + {unlike:.3f}"
        if there is not None:
            gain, error = found.less_than(there)
            line += f"   {'better' if gain > 0 else 'worse'} by {abs(gain):.3f} ± {error:.3f}"
            line += ", on half of the captions" * (len(found.scores) < len(there.scores))
        self.report(line)


def _key(says: Says) -> Any:
    return tuple(sorted(says.items()))


def _clearly_worse(found: Likeness, there: Likeness) -> bool:
    """Whether it is by two standard errors, on the captions that it was measured on."""
    gain, error = found.less_than(there)
    return gain < -2 * error


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
    template: str = "",
) -> Mapping[str, Any]:
    """Find what suits the model of a folder, and write it there, whole or not at all.

    Args:
        data: captioned images, by name; what the folder says that it was trained on, if left out.
        seconds: that it should take at most; with None, everything is tried.
        report: gets a line of each choice that was tried, and what came of it at the end.
        captions: how many are measured on, 4 or more; if left out, 32, or as many as the time is
            enough for.
        seed: of the noise, and of which captions are taken.
        write: whether the folder is changed.
        template: of captions of images that only a class is known of.

    Returns:
        `says`, what the folder says now (or would), `before` and `after`, the scores of what was
        there and of what was found, `better` and `error`, by how much, with the standard error
        (measured again, on other captions where there are some), and what it was measured on.

    Raises:
        ValueError: there is nothing to measure with or on; the folder was changed meanwhile.
    """
    begun = time.monotonic()
    if captions is not None:
        captions = whole_number(captions, "captions", LEAST)
    model = ModelFolder(folder)
    known = model.fingerprint(*_tuned_for(model))
    pipe = Pipeline.from_pretrained(folder, device=device)
    if pipe.clip.image_encoder is None:
        raise ValueError(f"{folder} has no image_encoder, which tuning measures images with")
    if pipe.decoder.needs_prior:
        pipe.prior_for(Settings())  # refuses what makes variations of images only
    unseen = Unseen.open(model, data, pipe.decoder.size, template)
    count = captions or _affordable(pipe, unseen, seconds)
    first, again = unseen.two_sets(count, seed)
    report(f"measuring on {unseen.said}: {many(len(first[0]), 'captions')}, {_IMAGES} images each")
    says, wrong = present(pipe), unseen.wrong()
    study = Study(pipe, real(pipe, *first, wrong), seed, report)
    if seconds is not None:
        study.deadline = begun + seconds
    start = study.measure(says)
    report(f"{'tried':<36} score = far + missed + unlike; lower is better")
    study.tell("as it is", start)
    best = swept(study, says)
    if study.late:
        report("the time is up: what is not listed was not tried; --budget gives more")
    confirmed = Study(pipe, real(pipe, *again, wrong), seed_after(seed, 2**20), report)
    result = _result(confirmed, says, best, start)
    if study.tried:
        _conclude(says, best, result, report)
    result |= {
        "captions": len(first[0]), "images": _IMAGES * len(first[0]), "data": unseen.noted,
        "split": unseen.split, "tried": study.tried, "seed": seed, "unclip": __version__,
    }  # fmt: skip
    if not study.tried:
        report("there was no time to try anything, and nothing is written")
    elif write:
        _write(model, known, result)
        found = "what was measured is noted" if best == says else "written"
        report(f"{found} in {printable(str(folder))}")
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
    other: Says = {**says, "prior": kind}
    if not study.in_time(other):
        return says
    scale = f"{prefix_of(kind)}_guidance_scale"
    study.tell(f"{kind} prior", study.measure(other), study.measure(says))
    other = study.chosen(other, [{scale: one} for one in SCALES])
    return other if study.better(other, says) else {**says, scale: other[scale]}


def coordinates(pipe: Pipeline, says: Says) -> Iterator[list[Says]]:
    """Changes of one thing at a time, what matters most first.

    Where the decoder has a student, guidance is what the student knows: `fast` needs it.
    """
    student = pipe.decoder.student
    yield _samplers("decoder", says)
    yield [{"decoder_guidance_scale": scale} for scale in SCALES
           if student is None or scale == 1 or student.knows(scale)]  # fmt: skip
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
    pipe.defaults = before | {key: value for key, value in says.items() if key != _CANDIDATES}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # nobody has chosen these captions
            images: Tensor = pipe(
                prompts,
                generator=[torch.Generator().manual_seed(seed_after(seed, k))
                           for k in range(len(prompts))],
                output_type="tensor", size=pipe.decoder.size, batch_size=_BATCH, **asked,
            ).images.cpu()  # fmt: skip
    finally:
        pipe.defaults = before
    return images.view(len(captions), _IMAGES, *images.shape[1:])


def words(says: Says) -> str:
    """What is said, or changed, as a line calls it."""
    return ", ".join(f"{name} {value}" for name, value in named(says).items())


def named(says: Says) -> dict[str, str]:
    """Names and values as people say them, a sampler with its η."""
    found = {}
    for key, value in says.items():
        stage, kind = key.replace("_", " "), key.rpartition("_")[2]
        if kind == "scale":
            found[stage.removesuffix(" scale")] = f"{value:g}"
        elif kind == "sampler":
            eta = says[key.replace("_sampler", "_eta")]
            found[stage] = f"{value}, η = {eta:g}" if SAMPLERS[value].takes_eta else value
        elif kind == "candidates":
            found["prior candidates"] = str(value)
        elif kind != "eta":
            found[stage] = str(value)
    return found


def _affordable(pipe: Pipeline, unseen: Unseen, seconds: float | None) -> int:
    """How many captions there is time for, by the time that a few images take."""
    captions, says = unseen.captions(4), present(pipe)
    if seconds is None or not captions:
        return MOST
    for _ in range(2):  # the first is slower
        begun = time.monotonic()
        made(pipe, captions, says, 0)
        took = time.monotonic() - begun
    return max(_FEWEST, min(MOST, int(seconds * len(captions) / (took * _TRIES))))


def real(pipe: Pipeline, captions: list[str], images: Tensor, wrong: list[str]) -> Real:
    """What a model's CLIP makes of captioned images (N, 3, H, H), and of wrong captions."""
    z_i = pipe.clip.image(images.to(pipe.device)).cpu()
    captions = [*captions, *wrong]
    parts = [captions[i : i + _BATCH] for i in range(0, len(captions), _BATCH)]
    z_t = torch.cat([pipe.clip.text(part).z_t.cpu() for part in parts])
    return Real.of(images, z_i, z_t, captions)


# ---- what comes of it ----------------------------------------------------------------------------


def _result(again: Study, says: Says, best: Says, start: Likeness) -> dict[str, Any]:
    """What was there, and what was found, measured again."""
    if best == says:
        return {SAYS: dict(says), "before": start.score, "after": start.score,
                "measured": start.score, "better": 0.0, "error": 0.0}  # fmt: skip
    there, found = again.measure(says), again.measure(best)
    gain, error = found.less_than(there)
    return {
        SAYS: dict(best if gain > 0 else says), "before": there.score, "measured": found.score,
        "after": min(there.score, found.score), "better": gain, "error": error,
    }  # fmt: skip


def _conclude(says: Says, best: Says, result: Mapping[str, Any], report: Report) -> None:
    """What was there beside what was found, and by how much that is better."""
    if best == says:
        report("nothing else suits the model better than what is there")
        return
    there, found = named(says), named(best)
    rows = [("", "as it was", "found")]
    rows += [(name, there[name], value) for name, value in found.items() if value != there[name]]
    before, after = (f"{result[key]:.3f}" for key in ("before", "measured"))
    rows.append(("score, measured again", before, after))
    report("")
    for name, was, now in rows:
        report(f"{name:<36} {was:<14} {now}".rstrip())
    by = f"by {abs(result['better']):.3f} ± {result['error']:.3f}"
    if result["better"] > 0:
        report(f"what was found is better {by}")
    else:
        report(f"measured again, what was found is worse {by}: everything stays as it is")


def _tuned_for(model: ModelFolder) -> list[str]:
    """Weights of the folder that what is found is for: all but the upsamplers'."""
    stages = {name for name, spec in STAGES.items() if spec.sampled_as in UPSAMPLING}
    names = [part for name, spec in STAGES.items() if name not in stages
             for part in (*spec.components, *spec.optional)]  # fmt: skip
    there = [name for name in names if model.has(name)]
    return [name for name in there if any(model.component(name).glob("*.safetensors"))]


def _write(model: ModelFolder, known: str, result: Mapping[str, Any]) -> None:
    """Put what was found into the folder's index, and how; what others say there stays."""
    says = dict(result[SAYS])
    with model.publishing():
        if model.fingerprint(*_tuned_for(model)) != known:
            raise ValueError(f"{model.path} was trained further meanwhile; tune it again")
        entries: dict[str, Any] = {}
        if _CANDIDATES in says:
            entries[_INDEX_CANDIDATES] = says.pop(_CANDIDATES)
        there = model.index().get(DEFAULTS, {})
        how = {key: round(value, 4) if isinstance(value, float) else value
               for key, value in result.items() if key not in (SAYS, "measured")}  # fmt: skip
        model.update_index({**entries, DEFAULTS: {**there, **says}, TUNED: {SAYS: says, **how}})

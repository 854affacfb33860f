"""`unclip evaluate upsampling`: images made small and enlarged again, held against the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from unclip.checks import many
from unclip.interfaces.cli.evaluations.sampled import SHOWN, OnImages, Session, finish
from unclip.interfaces.cli.options import parse
from unclip.pipeline.settings import UPSAMPLING


@dataclass(frozen=True, kw_only=True)
class Upsampling(OnImages):
    """Make real images, 100 if -n is left out, small, enlarge them with each of the model's
    upsamplers, and measure how near the truth they come, beside bicubic interpolation."""

    stages: ClassVar[tuple[str, ...]] = UPSAMPLING
    otherwise: ClassVar[int] = 100

    degradation: Literal["none", "bsr"] = "none"
    """Degradation of the small images: none (pixels averaged) or bsr (blur, noise, JPEG)."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate upsampling` say, and give the exit code."""
    options = parse(Upsampling, "evaluate upsampling", arguments)
    session = Session.open(options)
    from unclip.data.captions import ENLARGED
    from unclip.evaluation.generated import Generated, made_with
    from unclip.evaluation.report import Sheet
    from unclip.evaluation.studies.reconstruction import of_images, resized
    from unclip.evaluation.studies.upsampling import enlarging, held_against, small_of
    from unclip.networks.upsampler import upsample_bicubic
    from unclip.pipeline.sampling import stage_name, upsamplers_to
    from unclip.pixels import to_uint8

    pipe = session.pipe
    upsamplers = upsamplers_to(pipe, session.settings.size)
    if not upsamplers:
        raise ValueError("the model has no upsampler to measure at this size")
    real = session.real()
    report, under = None, None
    sizes = [pipe.decoder.size, *(one.size for one in upsamplers)]
    for stage, small in zip(upsamplers, sizes, strict=False):
        truth = resized(real, stage.size)
        wanted = of_images(list(to_uint8(truth)), options.seed)
        lows = small_of(truth, small, options.degradation)
        how = made_with(
            pipe, session.model, session.settings, made=f"enlarged by {stage.component}",
            small=small, degradation=options.degradation,
        )  # fmt: skip
        made = Generated(options.images, how)
        sampling = pipe.sampling(stage_name(stage), session.settings)
        session.make(
            made, wanted, session.settings, sampling.steps,
            lambda bar, stage=stage, lows=lows, sampling=sampling, wanted=wanted: enlarging(
                stage, dict(zip((one.of for one in wanted), lows, strict=True)), sampling, bar
            ),
        )  # fmt: skip
        if not session.share.first:
            continue
        if report is None:
            report, under = session.begin("Upsampling"), session.conditions
            small_ones = len(session.measured.source.check().notes.get(ENLARGED, ()))
            if small_ones:
                report.notes.append(
                    f"{many(small_ones, 'images')} of the data are smaller than {sizes[-1]} px: "
                    "their truth was enlarged by interpolation, which flatters bicubic"
                )
        assert under is not None
        name = f"{small} → {stage.size} px"
        large = session.all_of(made, wanted)
        plain = upsample_bicubic(lows, (stage.size, stage.size)).clamp(-1, 1)
        held_against(large, plain, truth, under, name, report)
        rows = []
        for k in range(min(SHOWN, len(wanted))):
            shown = (lows[k], plain[k], large[k], truth[k])
            rows.append((session.sets.captions[k], [to_uint8(one) for one in shown]))
        columns = ("small", "bicubic", "upsampler", "truth")
        report.sheets.append(Sheet(f"Enlarged, {name}", columns, rows))
    if report is not None:
        finish(report, options)
    return 0

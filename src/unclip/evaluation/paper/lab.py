"""What the paper's tables are measured with: models, scenes, a judge, features; images made once.

Images are made in batches of hundreds. Noise is drawn for a whole batch, on the device, from the
numbers of the stream and the batch: the same in every cell, so that rows of a table differ in what
they are about. Images are looked at where they were made, by the judge and the extractors, and only
what these say is kept; nothing of a sample is written or read. (`evaluation/generated.py` keeps
images of single seeds on the disk, for data that takes long; here a thousand take a second.)

Shapes: N images, H × W pixels, D width of z_i.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import torch
from torch import Tensor

from unclip.config import to_mapping
from unclip.data.world.scene import Scene, WorldConfig
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import noise_from
from unclip.evaluation.features.extractor import Extractor
from unclip.evaluation.judge.network import Detections, Judge, judge_images
from unclip.evaluation.metrics.aesthetic import Fit, fit
from unclip.evaluation.metrics.composition import held_out, score
from unclip.evaluation.metrics.frechet import fid
from unclip.evaluation.metrics.mmd import cmmd, kid
from unclip.evaluation.metrics.neighbours import prdc
from unclip.evaluation.metrics.spread import clip_score
from unclip.evaluation.paper.models import BUNDLED, Models
from unclip.evaluation.paper.painting import Painters
from unclip.evaluation.studies.taste import taste
from unclip.pipeline.knobs import concerning
from unclip.pipeline.sampling import stage_name, steps_of, upsamplers_to
from unclip.pipeline.settings import Settings
from unclip.pixels import to_signed, to_uint8

Given = Literal["prior", "nothing", "z_t", "z_i"]
RATES: Final = ("object", "colour", "background", "relation", "binding", "exact")
SCALES: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Guidance scales of the decoder that are swept."""
_APART: Final = 1_000_003  # between the numbers of two streams of noise


@dataclass(frozen=True)
class Ask:
    """Images that are wanted, one for each caption.

    Args:
        model: one of `models.MODELS`.
        given: what stands in z_i's place: what the "prior" draws; "nothing", which the decoder has
            learned; the caption's own "z_t"; or the "z_i" of a real image, given beside this.
        settings: how they are sampled.
        stream: of the noise.
        of: what else tells them from others, where z_i is given.
    """

    captions: tuple[str, ...]
    model: str = BUNDLED
    given: Given = "prior"
    settings: Settings = field(default_factory=Settings)
    stream: int = 0
    of: str = ""


@dataclass(frozen=True)
class Seen:
    """What was seen of images.

    Attributes:
        found: by the judge.
        features: by extractor, (N, D) on the CPU; "clip" has z_i.
    """

    found: list[Detections]
    features: dict[str, Tensor]

    @classmethod
    def joined(cls, parts: Sequence["Seen"]) -> "Seen":
        return cls(
            [one for part in parts for one in part.found],
            {
                name: torch.cat([part.features[name] for part in parts])
                for name in parts[0].features
            },
        )

    def __getitem__(self, rows: slice) -> "Seen":
        return Seen(self.found[rows], {name: f[rows] for name, f in self.features.items()})


class Lab:
    """Everything that studies measure with; to be used in `with`.

    Args:
        models: that are measured.
        judge: on the models' device.
        extractors: of features; "clip" must be among them.
        world: whose held-out scenes are drawn.
        n: images of a cell.
        batch: images at a time.
        seed: of everything that is drawn.
        size: pixels of a side; the largest of the model if left out.
        steps: preset of samplers and steps.
        decoder_steps: steps of the decoder, where they are not the preset's.
        processes, threads: that draw scenes, and compute metrics.
        facts: noted in every file.
    """

    def __init__(
        self,
        models: Models,
        judge: Judge,
        extractors: Sequence[Extractor],
        world: WorldConfig,
        n: int = 1000,
        batch: int = 500,
        seed: int = 0,
        size: int | None = None,
        steps: str = "default",
        decoder_steps: int | None = None,
        processes: int = 1,
        threads: int = 1,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if n < 16 or batch < 1:
            raise ValueError(f"n is {n} and batch is {batch}: take 16 images or more, 1 at once")
        self.models, self.judge, self.extractors = models, judge, list(extractors)
        self.config = held_out(world).config
        self.n, self.batch, self.seed = n, batch, seed
        self.size = size or models.bundled.sizes[-1]
        self.steps, self.decoder_steps = steps, decoder_steps
        self._facts = dict(facts or {})
        self._painters = Painters(processes)
        self._threads = ThreadPoolExecutor(threads)
        self._scenes: dict[tuple[int, int, int], tuple[list[Scene], Tensor]] = {}
        self._seen: dict[Ask, Seen] = {}
        self._embedded: dict[tuple[Any, ...], Tensor] = {}
        self._texts: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self._painters.close()
        self._threads.shutdown(cancel_futures=True)

    @property
    def device(self) -> torch.device:
        return self.models.bundled.device

    def facts(self) -> dict[str, Any]:
        """What decides the numbers, and what is good to know of them."""
        return {
            "n": self.n,
            "seed": self.seed,
            "size": self.size,
            "steps": self.steps,
            "decoder_steps": self.decoder_steps,
            "batch": self.batch,
            "world": to_mapping(self.config),
            "reference": f"held-out scenes {self.n} to {2 * self.n}",
            "models": self.models.fingerprints,
            "extractors": {one.name: one.hash for one in self.extractors},
            **self._facts,
        }

    def settings(self, **values: Any) -> Settings:
        """Settings of this lab's size, preset and steps."""
        values = {"decoder_num_inference_steps": self.decoder_steps, **values}
        return Settings(size=self.size, steps=self.steps, **values)

    # ---- scenes ------------------------------------------------------------------------------

    def scenes(self, first: int = 0, count: int | None = None, again: int = 0) -> list[Scene]:
        """Held-out scenes from number `first` on."""
        return self._painted(first, count or self.n, again)[0]

    def pictures(self, first: int = 0, count: int | None = None, again: int = 0) -> Tensor:
        """Those scenes' pictures (N, 3, H, W) uint8, on the CPU."""
        return self._painted(first, count or self.n, again)[1]

    def captions(self, first: int = 0, count: int | None = None) -> tuple[str, ...]:
        return tuple(scene.caption for scene in self.scenes(first, count))

    def _painted(self, first: int, count: int, again: int) -> tuple[list[Scene], Tensor]:
        key = (first, count, again)
        if key not in self._scenes:
            numbers = range(first, first + count)
            self._scenes[key] = self.paint(self.config, numbers, again)
        return self._scenes[key]

    def paint(
        self, config: WorldConfig, numbers: Sequence[int], again: int = 0
    ) -> tuple[list[Scene], Tensor]:
        """Scenes of any world by their numbers, and their pictures (N, 3, H, W) uint8."""
        size = min(max(self.size, 32), 1024)
        painted = self._painters.paint(config, numbers, size, again)
        return painted.scenes, torch.from_numpy(painted.pixels).permute(0, 3, 1, 2)

    @cached_property
    def truth(self) -> Seen:
        """Of the real images of the captions: of scenes 0 … n."""
        return self.look_at(self.pictures())

    @cached_property
    def reference(self) -> Seen:
        """Of the real images that distances are to: of scenes n … 2 n."""
        return self.look_at(self.pictures(self.n))

    # ---- images ------------------------------------------------------------------------------

    def noise(self, stream: int, first: int) -> Noise:
        """For the batch that begins with image `first`."""
        seed = (self.seed * _APART + stream) * _APART + first
        return noise_from(torch.Generator(self.device).manual_seed(seed % 2**63))

    def draw(self, ask: Ask, z_i: Tensor | None = None, start: Tensor | None = None) -> Seen:
        """Make images, and look at them; what was asked for before is known.

        Args:
            z_i: (N, D), where it is given.
            start: x_T (N, 3, h, h), fresh noise if left out.
        """
        if ask not in self._seen:
            parts = [self.look(images) for images in self.images(ask, z_i, start)]
            self._seen[ask] = Seen.joined(parts)
        return self._seen[ask]

    @torch.no_grad()
    def images(
        self, ask: Ask, z_i: Tensor | None = None, start: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Batches (n, 3, H, W) in [-1, 1], on the device, in colours of whole bytes."""
        pipe, bundled = self.models.of(ask.model, ask.given), self.models.bundled
        z_i = self.embeddings(ask) if z_i is None else z_i
        for rows in self._rows(len(ask.captions)):
            text = pipe.clip.text(ask.captions[rows])
            noise = self.noise(ask.stream, rows.start)
            x_T = None if start is None else start[rows].to(self.device)  # noqa: N806
            images = pipe.decode(z_i[rows].to(self.device), text, noise, ask.settings, None, x_T)
            for one in upsamplers_to(bundled, ask.settings.size):
                images = one.sample(images, bundled.sampling(stage_name(one), ask.settings), noise)
            yield to_signed(to_uint8(images))

    def embeddings(self, ask: Ask) -> Tensor:
        """What stands in z_i's place (N, D)."""
        if ask.given == "prior" and self.models.of(ask.model).decoder.needs_prior:
            return self.embedded(ask.captions, ask.settings, ask.stream)
        if ask.given == "z_t" or self.models.of(ask.model).decoder.settings.condition != "image":
            return self.text_embeddings(ask.captions, ask.model)
        if ask.given == "nothing":
            return torch.zeros(len(ask.captions), self.models.bundled.clip.width)  # read by nobody
        raise ValueError("real images' embeddings were asked for, and not given")

    @torch.no_grad()
    def embedded(self, captions: tuple[str, ...], settings: Settings, stream: int = 0) -> Tensor:
        """z_i (N, D) of the prior, the same for any settings of the decoder."""
        key = prior_key(captions, settings, stream)
        if key not in self._embedded:
            pipe, parts = self.models.bundled, []
            for rows in self._rows(len(captions)):
                noise = self.noise(stream + _APART // 2, rows.start)
                parts.append(pipe.embed(pipe.clip.text(captions[rows]), noise, settings).cpu())
            self._embedded[key] = torch.cat(parts)
        return self._embedded[key]

    @torch.no_grad()
    def text_embeddings(self, captions: tuple[str, ...], model: str = BUNDLED) -> Tensor:
        """z_t (N, D), as CLIP gives it."""
        if (model, captions) not in self._texts:
            clip, rows = self.models.of(model).clip, self._rows(len(captions))
            found = [clip.text(captions[one]).z_t.cpu() for one in rows]
            self._texts[model, captions] = torch.cat(found)
        return self._texts[model, captions]

    @torch.no_grad()
    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """z_i (N, D) of pictures (N, 3, H, W) uint8."""
        clip = self.models.bundled.clip
        rows = self._rows(len(pixels))
        return torch.cat([clip.image(to_signed(pixels[one].to(self.device))).cpu() for one in rows])

    # ---- what is seen ------------------------------------------------------------------------

    @torch.no_grad()
    def look(self, images: Tensor) -> Seen:
        """What judge and extractors see in images (N, 3, H, W) in [-1, 1]."""
        found = judge_images(self.judge, images, self.batch)
        return Seen(found, {one.name: one(images.float()) for one in self.extractors})

    def look_at(self, pixels: Tensor) -> Seen:
        """The same of pictures (N, 3, H, W) uint8."""
        rows = self._rows(len(pixels))
        return Seen.joined([self.look(to_signed(pixels[one].to(self.device))) for one in rows])

    def rates(self, seen: Seen, scenes: Sequence[Scene]) -> dict[str, Any]:
        """How often images show what the scenes' captions say."""
        rates = score(seen.found, scenes).rates()
        return {name: rates[name] for name in RATES}

    def clip_score(self, seen: Seen, captions: tuple[str, ...]) -> Any:
        """By the model's own CLIP."""
        z_t = self.text_embeddings(captions)
        return clip_score(seen.features["clip"], z_t)

    def distances(self, seen: Seen) -> dict[str, "Future[dict[str, Any]]"]:
        """FID, KID, CMMD, precision, recall, density and coverage against the real reference, by
        extractor. They are computed while the next images are made."""
        return {
            name: self.later(_distances, self.reference.features[name], features, name == "clip")
            for name, features in seen.features.items()
        }

    def quality(self, seen: Seen, scenes: Sequence[Scene]) -> dict[str, Any]:
        """All of it."""
        captions = tuple(scene.caption for scene in scenes)
        return {
            **self.rates(seen, scenes),
            "clip score": self.clip_score(seen, captions),
            **self.distances(seen),
        }

    @cached_property
    def probe(self) -> Fit:
        """Of the aesthetic score: of the taste that stands in for raters', on scenes 2 n … 6 n."""
        scenes, pixels = self.paint(self.config, range(2 * self.n, 6 * self.n))
        clip = next(one for one in self.extractors if one.name == "clip")
        rows = self._rows(len(pixels))
        z_i = torch.cat([clip(to_signed(pixels[one].to(self.device))) for one in rows])
        return fit(z_i, torch.tensor([taste(scene) for scene in scenes]), clip.hash)

    def later(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """What a function of features gives, in another thread."""
        return self._threads.submit(function, *arguments)

    def _rows(self, count: int) -> list[slice]:
        return [slice(i, min(i + self.batch, count)) for i in range(0, count, self.batch)]

    # ---- cost --------------------------------------------------------------------------------

    def cost(self, asks: Sequence[Ask]) -> tuple[int, int]:
        """Images and evaluations of networks that asks take, all that are equal once: a guided step
        of an image counts for two."""
        images = evaluations = 0
        priors: set[tuple[Any, ...]] = set()
        for ask in dict.fromkeys(asks):
            if ask in self._seen:
                continue
            images += len(ask.captions)
            evaluations += len(ask.captions) * self._decoding(ask)
            key = prior_key(ask.captions, ask.settings, ask.stream)
            of_prior = ask.given == "prior" and self.models.of(ask.model).decoder.needs_prior
            if of_prior and key not in priors:
                priors.add(key)
                evaluations += len(ask.captions) * self._prior_evaluations(ask.settings)
        return images, evaluations

    def _decoding(self, ask: Ask) -> int:
        pipe, bundled = self.models.of(ask.model, ask.given), self.models.bundled
        guided = 1 + (pipe.sampling("decoder", ask.settings).guidance.scale != 1)
        steps = guided * steps_of(pipe, "decoder", pipe.decoder.process, ask.settings)
        for one in upsamplers_to(bundled, ask.settings.size):
            steps += steps_of(bundled, stage_name(one), one.process, ask.settings)
        return steps

    def _prior_evaluations(self, settings: Settings) -> int:
        pipe = self.models.bundled
        prior, sampling = pipe.prior_for(settings), pipe.sampling("prior", settings)
        own = getattr(prior.settings, "candidates", 1)  # type: ignore[attr-defined]
        guided = 1 + (sampling.guidance.scale != 1)
        return prior.steps_for(sampling) * (settings.prior_num_candidates or own) * guided


def prior_key(captions: tuple[str, ...], settings: Settings, stream: int) -> tuple[Any, ...]:
    """What decides z_i: the decoder's own settings do not."""
    knobs = concerning(type(settings), ["prior"])
    return (captions, stream, *(getattr(settings, name) for name in knobs if name != "size"))


def _distances(real: Tensor, made: Tensor, is_clip: bool) -> dict[str, Any]:
    near = prdc(real, made).estimates()
    return {"fid": fid(made, real), "kid": kid(made, real), **near} | (
        {"cmmd": cmmd(made, real)} if is_clip else {}
    )

"""What can be done with images through their latents (section 3): functions of a pipeline, whose
methods they are.

Each finds the (z_i, x_T) that it is about and hands them to `decode_embeddings`, whose arguments
(number of images, seed, settings, …) all of them take.

Shapes: N images, D embedding width, h pixels at the decoder's resolution.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unclip import pixels
from unclip.checks import Notice, listed, many, of_kind, whole_number
from unclip.config import one_of
from unclip.device.memory import kept_memory
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.sampling import Sampling
from unclip.networks.pca import Components, Moments
from unclip.outputs.latents import Latents, check_embeddings, check_noise
from unclip.pipeline.hooks import Callback, Hooks
from unclip.pipeline.inputs import check_count
from unclip.pipeline.latent_space import (
    check_frames,
    check_thetas,
    check_weights,
    mean_direction,
    path,
    text_edited,
)
from unclip.pipeline.noise import STARTED
from unclip.pipeline.pictures import Images, Picture, check_images
from unclip.pipeline.requests import Output, OutputType, Part, Request, check_arguments
from unclip.pipeline.settings import Settings, preset
from unclip.stages.decoder.student import FewStepStudent

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

_MOST = 120.0  # dB that images which agree count as
PROBED = (20, 30, 40, 80, 120, 160, 200, 320)
"""Components of the paper's figure 7."""


def probed(width: int) -> tuple[int, ...]:
    """`PROBED`, as far as embeddings of this width have so many, and all of them."""
    return (*(count for count in PROBED if count < width), width)


@torch.no_grad()
def decode_embeddings(
    pipe: "Pipeline",
    image_embeddings: Any,
    num_images_per_prompt: int = 1,
    *,
    start: Tensor | None = None,
    scales: Sequence[float] | None = None,
    seed: int = 0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    output_type: OutputType = "pil",
    callback_on_step_end: Callback | None = None,
    batch_size: int | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Output:
    """Make images for image embeddings, without a caption; all manipulations end here.

    The empty prompt is in both branches of the guidance, which so acts on z_i alone.

    Args:
        image_embeddings: z_i (N, D) or (D,), a tensor or array of floats.
        num_images_per_prompt: images for each; the other arguments are those of a call.
        start: x_T (N, 3, h, h) of each, as inversion gives it; fresh noise if left out.
        scales: guidance scales, one for each, where settings leave it open.

    Raises:
        ValueError: embeddings of another width, noise of another shape, or either with NaN; a
            number or setting that makes no sense.
    """
    request = Request.of(
        settings, overrides, pipe.sizes, seed=seed, generator=generator, output_type=output_type,
        callback_on_step_end=callback_on_step_end, batch_size=batch_size,
    )  # fmt: skip
    z_all = check_embeddings(image_embeddings, pipe.clip.width).to(pipe.device)
    count = check_count(num_images_per_prompt, len(z_all))
    steps = pipe.evaluations(request.settings, "decoder")
    if pipe.decoder.settings.condition == "caption":
        raise ValueError("this model's decoder sees captions only: it cannot vary images")
    if start is not None:
        start = check_noise(start, len(z_all), pipe.decoder.size)
        if request.decoder_latents is not None:
            raise ValueError("start and decoder_latents are both x_T: give one of them")

    request.settings.guided(scales, len(z_all))  # refused before the work
    scales = None if scales is None else listed(scales)

    def draw(part: Part) -> Tensor:
        z_i, text = z_all[part.of], pipe.null.expand(len(part.of))
        x = None if start is None else start[part.of].to(z_i)
        each = None if scales is None else [scales[k] for k in part.of]
        images = pipe.decoded(z_i, text, part, x, scales=each)
        return pipe.upsampled(images, part)

    return request.made(pipe, [""] * len(z_all), count, draw, steps, STARTED[1:])


@torch.no_grad()
def invert(
    pipe: "Pipeline",
    image: Images,
    num_inference_steps: int = 100,
    *,
    callback_on_step_end: Any = None,
    batch_size: int | None = None,
) -> Latents:
    """The bipartite latents of images: z_i by CLIP, x_T by DDIM inversion (section 3).

    x_T is conditioned on z_i, without a caption and without guidance. CLIP sees the image as it
    prepares it, the decoder its central square.

    Args:
        num_inference_steps: of DDIM; each costs some evaluations of the decoder.
        callback_on_step_end: as of a call; the "stage" is "inversion". What an interrupted
            inversion gives does not lead back to the images, and lacks those not begun.

    Raises:
        ValueError: no image, a model that sees none, or a number that makes no sense.
    """
    Request(callback_on_step_end=callback_on_step_end, batch_size=batch_size)
    steps = whole_number(num_inference_steps, "num_inference_steps", 1, 2**16)
    sampling = Sampling(steps, "ddim", Guidance(1.0))
    pipe.decoder.process.timesteps(sampling)  # as many as it has, or it is refused here
    batch = pipe.batch_size_for(batch_size)
    images = check_images(image)
    z_all, squares = pipe.embed_images(images), pipe.squares(images)
    pipe._interrupt = False
    parts: list[Tensor] = []
    with kept_memory(z_all.device), pipe.progress_bar(total=steps * len(z_all)) as bar:
        for z_i, x in zip(torch.split(z_all, batch), torch.split(squares, batch), strict=True):
            if pipe._interrupt:
                break
            hook = Hooks(pipe, callback_on_step_end, len(x), bar)("inversion")
            text, x = pipe.null.expand(len(x)), x.to(z_i.device)
            parts.append(pipe.decoder.invert(x, z_i, text, sampling, hook).cpu())
    noise = torch.cat(parts)
    return Latents(z_all[: len(noise)].cpu(), noise, sampling.steps, pipe.fingerprint)


def reconstruct(pipe: "Pipeline", latents: Latents, **arguments: Any) -> Output:
    """The images that latents were made from: `vary` with η = 0, which is the default."""
    of_kind(latents, Latents, "latents", "what `invert` gives")
    return pipe.vary(latents, **arguments)


def psnr(pipe: "Pipeline", image: Images, latents: Latents) -> list[float]:
    """How well latents lead back to their images at the decoder's resolution, in dB.

    Raises:
        ValueError: no images, or not as many as there are latents.
    """
    squares = pipe.squares(image)
    made = pipe.reconstruct(latents, size=pipe.decoder.size, output_type="tensor").images
    if len(squares) != len(made):
        raise ValueError(
            f"{many(len(squares), 'images were')} given for the latents of {len(made)}"
        )
    decibels: list[float] = pixels.psnr(made, squares).clamp(max=_MOST).tolist()
    return decibels


def vary(
    pipe: "Pipeline", image: Images | Latents, num_images_per_prompt: int = 1, **arguments: Any
) -> Output:
    """Make variations of images: decode their own z_i (section 3.1), without a caption.

    From an image, the noise is fresh. From its latents, DDIM starts at its x_T: η = 0 gives
    back the image, a larger η varies it more. The guidance of latents is 1 if it is left out.

    Args:
        image: one or several, of any mode and size (`pipeline/pictures.py`); or latents.
        num_images_per_prompt: variations of each; the other arguments are those of a call.

    Raises:
        ValueError: the model has no image encoder; a number or setting that makes no sense.
    """
    arguments["num_images_per_prompt"] = num_images_per_prompt
    z_i, start, arguments = _latents(pipe, image, arguments)
    return pipe.decode_embeddings(z_i, start=start, **arguments)


def blend(
    pipe: "Pipeline",
    image: Images | Latents,
    frames: int = 7,
    *,
    weights: Sequence[float] | None = None,
    noise: Literal["slerp", "fixed"] = "slerp",
    **arguments: Any,
) -> Output:
    """Images between two or more (section 3.2): z_i by slerp from each to the next.

    Args:
        image: at least two; or their latents, from which the ends are reconstructed.
        frames: in all, the images themselves among them if frames - 1 divides evenly.
        weights: one for each image: a single image of their weighted mean, instead of frames.
        noise: between latents, "slerp" of the x_T too, or the first one "fixed" for all.
            Between images it is one random draw, of `seed`, for all.

    Raises:
        ValueError: fewer than two images or frames; weights that make no sense.
    """
    one_of(noise, "noise", ("slerp", "fixed"))
    frames = whole_number(frames, "frames")
    image = image if isinstance(image, Latents) else check_images(image)
    points = len(image)
    if weights is None:
        check_count(check_frames(frames, points), 1)  # before as many latents are made
    else:
        weights = check_weights(weights, points)
    z_i, start, arguments = _latents(pipe, image, arguments)

    def between(points: Tensor) -> Tensor:
        return path(points, frames) if weights is None else mean_direction(points, weights)

    z_i = between(z_i)
    if start is not None:
        start = between(start) if noise == "slerp" else start[:1].expand(len(z_i), -1, -1, -1)
    return pipe.decode_embeddings(z_i, start=start, **arguments)


def edit(
    pipe: "Pipeline",
    image: Images | Latents,
    prompt: str,
    source_prompt: str = "",
    theta: float | Sequence[float] = 0.4,
    **arguments: Any,
) -> Output:
    """Change images towards a text (section 3.3): slerp(z_i, z_d, θ).

    z_d is the normalised difference of the embeddings of `prompt` and `source_prompt`. From
    latents, x_T stays the image's own, guidance grows with θ, and θ = 0 gives back the image.

    Args:
        prompt: what the image should become.
        source_prompt: what it is now, "a photo", or empty.
        theta: how far, in [0, 1]; the paper takes 0.25 to 0.5. Several give as many images of
            each.

    Raises:
        ValueError: the texts have the same embedding; θ is outside [0, 1].
    """
    thetas = check_thetas(theta)
    arguments = _checked(pipe, arguments)
    direction = pipe.text_direction(prompt, source_prompt)
    z_i, start, arguments = _latents(pipe, image, arguments, edits=True)
    check_count(len(thetas), len(z_i))
    points = text_edited(z_i, start, direction, thetas)
    return pipe.decode_embeddings(points.z_i, start=points.x_T, scales=points.scales, **arguments)


def probe(
    pipe: "Pipeline",
    image: Picture | Latents,
    embeddings: Tensor,
    components: Sequence[int] | None = None,
    **arguments: Any,
) -> Output:
    """Decode z_i rebuilt from its first principal components, with the same noise (section 4).

    Args:
        image: one.
        embeddings: (M, D) whose principal components are taken, `embed_images` of many images.
        components: how many of them, for each of the images that are made; all D give back z_i.
            None is `probed(D)`.

    Raises:
        ValueError: fewer than two embeddings, or another width; more components than D.
    """
    width = pipe.clip.width
    counts = [
        whole_number(count, "a number of components", 0, width)
        for count in (probed(width) if components is None else listed(components))
    ]
    if not counts:
        raise ValueError("no number of components was given: take at least one")
    basis = Components.of(Moments.of(check_embeddings(embeddings, pipe.clip.width, "embeddings")))
    z_i, start, arguments = _latents(pipe, image, arguments)
    if len(z_i) != 1:
        raise ValueError(f"{len(z_i)} images were given; components are probed of one")
    z_i = torch.cat([basis.rebuilt(z_i, count) for count in counts])
    if start is not None:
        start = start.expand(len(z_i), -1, -1, -1)
    return pipe.decode_embeddings(z_i, start=start, **arguments)


def _latents(
    pipe: "Pipeline", image: Images | Latents, arguments: dict[str, Any], edits: bool = False
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """z_i (N, D) and, from latents, x_T, both on the CPU, with the settings that suit them."""
    arguments = _checked(pipe, arguments)
    if not isinstance(image, Latents):
        return pipe.embed_images(image).cpu(), None, arguments
    image.check(pipe.clip.width, pipe.decoder.size, pipe.fingerprint)
    asked = arguments["settings"]
    settings = asked.for_reconstruction(image.steps, edits)
    few = isinstance(pipe.decoder.student, FewStepStudent) and preset(asked.steps).decoder_few_steps
    if few and not pipe.sampling("decoder", settings).guidance.distilled:
        warnings.warn(
            f"inverted latents are decoded by the decoder itself, in {image.steps} steps: its "
            "student does not know the way back",
            Notice, stacklevel=3,
        )  # fmt: skip
    return image.z_i, image.x_T, arguments | {"settings": settings}


def _checked(pipe: "Pipeline", arguments: dict[str, Any]) -> dict[str, Any]:
    """As `check_arguments`; what cannot be done is refused before an image is embedded."""
    arguments = check_arguments(arguments, pipe.sizes)
    pipe.evaluations(arguments["settings"], "decoder")
    return arguments

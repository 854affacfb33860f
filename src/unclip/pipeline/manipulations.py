"""What can be done with images through their latents (section 3), as methods of `Pipeline`.

Each finds the (z_i, x_T) that it is about and hands them to `decode_embeddings`, whose arguments
(number of images, seed, settings, …) all of them take.

Shapes: N images, D embedding width, h pixels at the decoder's resolution.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from unclip.checks import Notice, listed, of_kind, shown, whole_number
from unclip.config import one_of
from unclip.data.transforms import ImageProcessor, square, to_tensor
from unclip.device.memory import kept_memory
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.sampling import Sampling
from unclip.networks.pca import Components, Moments
from unclip.outputs.latents import Latents, check_embeddings
from unclip.pipeline.hooks import Hooks
from unclip.pipeline.latent_space import (
    check_frames,
    check_thetas,
    check_weights,
    mean_direction,
    path,
    text_diff,
    towards,
)
from unclip.pipeline.requests import (
    Drawing,
    Output,
    check_arguments,
    check_count,
    check_images,
    check_prompt,
    check_prompts,
)
from unclip.pipeline.settings import Settings
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.stages.decoder import DecoderStage
from unclip.words import unknown_words

Images = Image.Image | Sequence[Image.Image]
PROBED = (20, 30, 40, 80, 120, 160, 200, 320)
"""Components of the paper's figure 7."""


def probed(width: int) -> tuple[int, ...]:
    """`PROBED`, as far as embeddings of this width have so many, and all of them."""
    return (*(count for count in PROBED if count < width), width)


class Manipulations:
    """The part of `Pipeline` that starts from images, texts and embeddings."""

    clip: FrozenCLIP
    decoder: DecoderStage
    fingerprint: str
    _interrupt: bool

    @property
    def null(self) -> TextCondition:
        """See `Pipeline`."""
        raise NotImplementedError

    def decode_embeddings(self, image_embeddings: Any, *args: Any, **arguments: Any) -> Output:
        """See `Pipeline`."""
        raise NotImplementedError

    def evaluations(self, settings: Settings, start: Literal["prior", "decoder"]) -> int:
        """See `Pipeline`."""
        raise NotImplementedError

    def batch_size_for(self, batch_size: int | None = None) -> int:
        """See `Pipeline`."""
        raise NotImplementedError

    # ---- embeddings and latents -----------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, image: Images) -> Tensor:
        """CLIP's z_i (N, D), fp32, of Pillow images of any mode and size.

        Raises:
            ValueError: the model has no image encoder; something is no image.
        """
        images = check_images(image)
        if self.clip.processor is None:
            raise ValueError("this model has no image_encoder: it takes captions, not images")
        process = ImageProcessor(self.clip.processor)
        return torch.cat([self.clip.encode(process(one)) for one in images])

    def captions(self, prompt: str | Sequence[str]) -> list[str]:
        """Captions that can be encoded, with a `Notice` of what in them the model does not know.

        Raises:
            ValueError: one is empty, too long, or no text.
        """
        prompts, tokenizer = check_prompts(prompt), self.clip.tokenizer
        said = [
            f"the model reads {tokenizer.context_length} tokens of a caption; {shown(unread)} is "
            "ignored"
            for unread in map(tokenizer.dropped, dict.fromkeys(prompts))
            if unread
        ]
        unseen = dict.fromkeys(word for text in prompts for word in tokenizer.unseen(text))
        said += [unknown_words(list(unseen))] if unseen else []
        for sentence in said:
            warnings.warn(sentence, Notice, stacklevel=3)
        return prompts

    def embed_texts(self, prompt: str | Sequence[str]) -> Tensor:
        """CLIP's z_t (N, D), fp32, of captions."""
        return self.clip.text(self.captions(prompt)).z_t

    def text_direction(self, prompt: str, source_prompt: str = "") -> Tensor:
        """z_d (1, D), on the CPU: of unit length, from one caption to another (section 3.3).

        Raises:
            ValueError: one is no single text; both have the same embedding.
        """
        of_kind(source_prompt, str, "source_prompt", "a string")
        check_prompt(prompt)
        base = self.captions(source_prompt) if source_prompt else [""]
        target = self.embed_texts(prompt)
        return text_diff(target, self.clip.text(base).z_t).cpu()

    def squares(self, image: Images) -> Tensor:
        """What is inverted: images' central squares at the decoder's resolution, (N, 3, h, h)."""
        size = self.decoder.size
        return torch.stack([to_tensor(square(one, size)) for one in check_images(image)])

    @torch.no_grad()
    def invert(
        self,
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
        Drawing(callback_on_step_end=callback_on_step_end, batch_size=batch_size)
        steps = whole_number(num_inference_steps, "num_inference_steps", 1, 2**16)
        sampling = Sampling(steps, "ddim", Guidance(1.0))
        self.decoder.process.timesteps(sampling)  # as many as it has, or it is refused here
        batch = self.batch_size_for(batch_size)
        z_all, squares = self.embed_images(image), self.squares(image)
        self._interrupt = False
        parts: list[Tensor] = []
        with kept_memory(z_all.device):
            for z_i, x in zip(torch.split(z_all, batch), torch.split(squares, batch), strict=True):
                if self._interrupt:
                    break
                hook = Hooks(self, callback_on_step_end, len(x))("inversion")
                text, x = self.null.expand(len(x)), x.to(z_i.device)
                parts.append(self.decoder.invert(x, z_i, text, sampling, hook).cpu())
        noise = torch.cat(parts)
        return Latents(z_all[: len(noise)].cpu(), noise, sampling.steps, self.fingerprint)

    def reconstruct(self, latents: Latents, **arguments: Any) -> Output:
        """The images that latents were made from: `vary` with η = 0, which is the default."""
        of_kind(latents, Latents, "latents", "what `invert` gives")
        return self.vary(latents, **arguments)

    def psnr(self, image: Images, latents: Latents) -> list[float]:
        """How well latents lead back to their images at the decoder's resolution, in dB.

        Raises:
            ValueError: no images, or not as many as there are latents.
        """
        squares = self.squares(image)
        made = self.reconstruct(latents, size=self.decoder.size, output_type="pt").images
        if len(squares) != len(made):
            raise ValueError(f"{len(squares)} images were given for the latents of {len(made)}")
        errors = ((made - squares) / 2).square().flatten(1).mean(dim=1)
        decibels: list[float] = (-10 * errors.clamp(min=1e-12).log10()).tolist()
        return decibels

    # ---- manipulations --------------------------------------------------------------------------

    def vary(
        self, image: Images | Latents, num_images_per_prompt: int = 1, **arguments: Any
    ) -> Output:
        """Make variations of images: decode their own z_i (section 3.1), without a caption.

        From an image, the noise is fresh. From its latents, DDIM starts at its x_T: η = 0 gives
        back the image, a larger η varies it more. The guidance of latents is 1 if it is left out.

        Args:
            image: one Pillow image or several, of any mode and size; or latents.
            num_images_per_prompt: variations of each; the other arguments are those of a call.

        Raises:
            ValueError: the model has no image encoder; a number or setting that makes no sense.
        """
        arguments["num_images_per_prompt"] = num_images_per_prompt
        z_i, start, arguments = self._latents(image, arguments)
        return self.decode_embeddings(z_i, start=start, **arguments)

    def blend(
        self,
        image: Sequence[Image.Image] | Latents,
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
        points = len(image) if isinstance(image, Latents) else len(listed(image))
        if weights is None:
            check_count(check_frames(frames, points), 1)  # before as many latents are made
        else:
            weights = check_weights(weights, points)
        z_i, start, arguments = self._latents(image, arguments)

        def between(points: Tensor) -> Tensor:
            return path(points, frames) if weights is None else mean_direction(points, weights)

        z_i = between(z_i)
        if start is not None:
            start = between(start) if noise == "slerp" else start[:1].expand(len(z_i), -1, -1, -1)
        return self.decode_embeddings(z_i, start=start, **arguments)

    def edit(
        self,
        image: Images | Latents,
        prompt: str,
        source_prompt: str = "",
        theta: float | Sequence[float] = 0.4,
        **arguments: Any,
    ) -> Output:
        """Change images towards a text (section 3.3): slerp(z_i, z_d, θ).

        z_d is the normalised difference of the embeddings of `prompt` and `source_prompt`. From
        latents, x_T stays the image's own, and θ = 0 gives back the image.

        Args:
            prompt: what the image should become.
            source_prompt: what it is now, "a photo", or empty.
            theta: how far, in [0, 1]; the paper takes 0.25 to 0.5. Several give as many images of
                each.

        Raises:
            ValueError: the texts have the same embedding; θ is outside [0, 1].
        """
        thetas = check_thetas(theta)
        arguments = self._checked(arguments)
        direction = self.text_direction(prompt, source_prompt)
        z_i, start, arguments = self._latents(image, arguments)
        many = len(z_i)
        check_count(len(thetas), many)
        z_i = z_i.repeat_interleave(len(thetas), dim=0)
        if start is not None:
            start = start.repeat_interleave(len(thetas), dim=0)
        steps = torch.tensor(thetas * many, dtype=torch.float64)
        z_i = towards(z_i, direction.expand_as(z_i), steps)
        return self.decode_embeddings(z_i, start=start, **arguments)

    def probe(
        self,
        image: Image.Image | Latents,
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
        width = self.clip.width
        counts = [
            whole_number(count, "a number of components", 0, width)
            for count in (probed(width) if components is None else listed(components))
        ]
        if not counts:
            raise ValueError("no number of components was given: take at least one")
        basis = Components.of(
            Moments.of(check_embeddings(embeddings, self.clip.width, "embeddings"))
        )
        z_i, start, arguments = self._latents(image, arguments)
        if len(z_i) != 1:
            raise ValueError(f"{len(z_i)} images were given; components are probed of one")
        z_i = torch.cat([basis.rebuilt(z_i, count) for count in counts])
        if start is not None:
            start = start.expand(len(z_i), -1, -1, -1)
        return self.decode_embeddings(z_i, start=start, **arguments)

    def _latents(
        self, image: Images | Latents, arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        """z_i (N, D) and, from latents, x_T, both on the CPU, with the settings that suit them."""
        arguments = self._checked(arguments)
        if not isinstance(image, Latents):
            return self.embed_images(image).cpu(), None, arguments
        image.check(self.clip.width, self.decoder.size, self.fingerprint)
        settings = arguments["settings"].for_reconstruction(image.steps)
        return image.z_i, image.x_T, arguments | {"settings": settings}

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `check_arguments`; what cannot be done is refused before an image is embedded."""
        arguments = check_arguments(arguments)
        self.evaluations(arguments["settings"], "decoder")
        return arguments

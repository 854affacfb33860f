"""Diffusion as a stage uses it: what a network is given and taught, and how data is drawn with it.

The state and the losses are float32 at least.

Shapes: N batch, C channels of the data (dimension 1), ... the remaining dimensions, if any.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.diffusion.inpainting import Known, inpaint
from unclip.diffusion.inversion import ending_in_data, invert
from unclip.diffusion.losses import LossConfig, snr_weights, vlb_terms
from unclip.diffusion.prediction import (
    Denoiser,
    Noise,
    Prediction,
    at_least_float32,
    dynamic_threshold,
    to_x0,
)
from unclip.diffusion.registry import SAMPLERS, spacing_named
from unclip.diffusion.samplers import Callback, Stop
from unclip.diffusion.sampling import Plan, Sampling
from unclip.diffusion.schedules import DiffusionConfig, Schedule
from unclip.draws import integers, normal


class Diffusion:
    """A diffusion process, with the meaning of its network's outputs and the weights of its loss.

    Args:
        config: the process; its schedule follows from it.
        weights: of the training loss.
    """

    def __init__(self, config: DiffusionConfig, weights: LossConfig | None = None) -> None:
        self.config, self.weights = config, weights or LossConfig()
        self.schedule = Schedule.from_config(config)

    # ---- training --------------------------------------------------------------------------------

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Training's x_t (N, ...), t (N,), uniform, and noise (N, ...) for x0 (N, ...)."""
        t = integers(len(self.schedule), len(x0), generator=generator)
        noise = normal(*x0.shape, generator=generator)
        return self.schedule.q_sample(x0, t, noise), t, noise

    def loss(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Loss of a network that answered ``output`` to the x_t that ``draw`` made of the others.

        L_simple (DDPM, eq. 14), and where the variance is trained L_hybrid (Improved DDPM, eq. 16).

        Args:
            output: (N, C or 2C, ...) raw output.
            x0, noise: (N, C, ...); with learned variance, x0 is images in [-1, 1].
            t: (N,) timesteps, drawn uniformly.

        Returns:
            Scalars: ``loss``, to minimise; ``mse``, unweighted, and, where the variance is trained,
            ``vlb``, the estimate T L_t of the bound in bits per dimension, both detached.

        Raises:
            ValueError: the output has the wrong number of channels.
        """
        x0, noise = at_least_float32(x0), at_least_float32(noise)
        predicted, fraction = self.split(output.to(x0.dtype), x0.shape[1])
        mse, weighted = self.errors(predicted, x0, noise, t)
        losses = {"loss": weighted.mean(), "mse": mse.mean().detach()}
        return self.with_bound(losses, predicted, fraction, x0, noise, t)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is taught to output for x_t = α x_0 + σ ε: (N, C, ...)."""
        if self.config.prediction_type == "v_prediction":
            alpha, sigma = self.schedule.alpha_sigma(t, x0)
            return alpha * noise - sigma * x0
        return at_least_float32(noise if self.config.prediction_type == "epsilon" else x0)

    def errors(
        self, predicted: Tensor, x0: Tensor, noise: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared errors (N,) of a prediction (N, C, ...), see ``split``: as they are, weighted."""
        mse = ((predicted - self.target(x0, noise, t)) ** 2).flatten(1).mean(1)  # (N,)
        kind = self.weights.weighting
        if kind == "simple":
            return mse, mse
        snr = self.schedule.snr(torch.arange(len(self.schedule)))
        least = 1.0 if kind == "truncated_snr" else 0.0
        weights = snr_weights(snr, self.config.prediction_type, self.weights.min_snr_gamma, least)
        return mse, self.schedule.gather(weights, t, mse) * mse

    def with_bound(
        self,
        losses: dict[str, Tensor],
        predicted: Tensor,
        fraction: Tensor | None,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
    ) -> dict[str, Tensor]:
        """The losses, and where the variance is trained λ L_vlb added to them.

        The bound trains the variance only: the mean is detached (Improved DDPM, section 3.1).

        Args:
            predicted, fraction: (N, C, ...), see ``split``.
        """
        if fraction is None or not self.config.trains_variance:
            return losses
        x_t = self.schedule.q_sample(x0, t, noise)
        alpha, sigma = self.schedule.alpha_sigma(t, x0)
        x0_pred = to_x0(predicted.detach(), x_t, alpha, sigma, self.config.prediction_type)
        terms = vlb_terms(x0_pred, fraction, x0, t, self.schedule)
        vlb = len(self.schedule) * terms.mean()
        total = losses["loss"] + self.weights.vlb_weight * vlb
        return losses | {"loss": total, "vlb": vlb.detach()}

    # ---- sampling --------------------------------------------------------------------------------

    def split(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """Part a raw output into the prediction and the variance fraction.

        Args:
            output: (N, 2C, ...) with learned variance, where the second half holds
                2 * fraction - 1; otherwise (N, C, ...).
            channels: C.

        Returns:
            (N, C, ...) the prediction, and (N, C, ...) the fraction or None.

        Raises:
            ValueError: the output has another number of channels.
        """
        learned = self.config.variance_type == "learned_range"
        expected = 2 * channels if learned else channels
        if output.shape[1] != expected:
            raise ValueError(
                f"The network returned {output.shape[1]} channels where variance_type "
                f"{self.config.variance_type!r} needs {expected}; correct one or the other."
            )
        if not learned:
            return output, None
        output, variance = output.chunk(2, dim=1)
        return output, (variance + 1) / 2

    def predict(
        self, output: Tensor, x_t: Tensor, t: Tensor, threshold: float | None = None
    ) -> Prediction:
        """Turn a raw network output, guided or not, into x_0, ε and variance.

        Where x_0 is clipped or thresholded, ε is computed anew from it, as GLIDE does, so that both
        describe the same x_t.

        Args:
            output: (N, C or 2C, ...) raw output for (x_t, t).
            x_t: (N, C, ...) noised data.
            t: (N,) or () timesteps, whole or not.
            threshold: percentile for dynamic thresholding, instead of plain clipping.

        Raises:
            ValueError: wrong number of output channels, or threshold outside (0, 1].
        """
        config, x_t = self.config, at_least_float32(x_t)
        output, variance = self.split(output.to(x_t.dtype), x_t.shape[1])
        alpha, sigma = self.schedule.alpha_sigma(t, x_t)
        x0 = to_x0(output, x_t, alpha, sigma, config.prediction_type)
        if threshold is not None:
            x0 = dynamic_threshold(x0, threshold, config.clip_sample_range)
        elif config.clip_sample:
            x0 = x0.clamp(-config.clip_sample_range, config.clip_sample_range)
        elif config.prediction_type == "epsilon":
            return Prediction(x0, output, variance)
        return Prediction(x0, (x_t - alpha * x0) / sigma, variance)

    def denoiser(
        self, network: Callable[[Tensor, Tensor], Tensor], threshold: float | None = None
    ) -> Denoiser:
        """A network (x_t, t) -> raw output, guided or not, as samplers see it."""

        def denoise(x: Tensor, t: Tensor) -> Prediction:
            return self.predict(network(x, t), x, t, threshold)

        return denoise

    def timesteps(self, sampling: Sampling) -> Tensor:
        """The timesteps (steps,) that are visited, descending.

        Raises:
            ValueError: more steps than the process has timesteps.
        """
        name = sampling.spacing or SAMPLERS[sampling.sampler].spacing
        return spacing_named(name)(self.schedule, sampling.steps)

    def plan(self, sampling: Sampling) -> Plan:
        """The same, with those among them at which guidance is active."""
        timesteps = self.timesteps(sampling)
        pairs = zip(timesteps.tolist(), self.schedule.noise_level(timesteps).tolist(), strict=True)
        active = frozenset(t for t, sigma in pairs if sampling.guidance.active(sigma))
        return Plan(tuple(timesteps.tolist()), active)

    def sample(
        self,
        denoiser: Denoiser,
        like: Tensor,
        sampling: Sampling,
        noise: Noise,
        callback: Callback | None = None,
        start: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Run the sampler from ``start``, or from fresh noise, shaped as ``like`` (N, ...).

        What is ``known`` of the result is kept, and the rest is painted. Where the callback stops
        the sampler, this is the data as far as it is known then.

        Args:
            start: (N, ...) what ``invert`` found: sampling leads back to the data from there.
        """
        timesteps = self.timesteps(sampling)
        sampler = SAMPLERS[sampling.sampler].sampler(sampling.eta)
        if start is not None:
            denoiser = ending_in_data(denoiser, self.schedule)
        x = noise(like) if start is None else start.to(like.device)
        try:
            if known is None:
                return sampler(denoiser, x, self.schedule, timesteps, noise, callback=callback)
            return inpaint(
                sampler, denoiser, x, known, self.schedule, timesteps, noise,
                resamples=sampling.resamples, callback=callback,
            )  # fmt: skip
        except Stop as stop:
            return stop.x0

    def invert(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        sampling: Sampling,
        callback: Callback | None = None,
    ) -> Tensor:
        """The start (N, ...) from which ``sample`` by DDIM with η = 0 makes ``x0`` (N, ...).

        Where the callback stops it, this is the x_t that was reached, which leads nowhere.
        """
        denoiser, timesteps = ending_in_data(denoiser, self.schedule), self.timesteps(sampling)
        try:
            return invert(denoiser, x0, self.schedule, timesteps, callback=callback)
        except Stop as stop:
            return stop.x

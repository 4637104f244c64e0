"""Denoising diffusion over noise positions, given data or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genfw import Amortizer, Encoder, NoiseLayout, Size
from genfw.models.freezing import frozen
from genfw.plugins.validators import at_least, within
from genfw_plugins.ddpm.network import MLPUNet
from genfw_plugins.ddpm.schedule import CosineSchedule, alpha_sigma
from genfw_plugins.ddpm.solvers import ancestral, ddim, dpm_solver
from genfw_plugins.ddpm.walk import Walk

Solver = Literal["ancestral", "ddim", "dpm-solver"]


class DDPM(Amortizer):
    r"""Diffusion model :math:`q(\epsilon)` and :math:`q(\epsilon \mid x)` in one network that predicts noise.

    It descends :math:`\tfrac12 \|\hat\xi(\alpha \epsilon + \sigma \xi, \lambda(u), c) - \xi\|^2` over normal
    :math:`\xi` and uniform :math:`u`. The context :math:`c` is the encoder's description of :math:`x`, or a null token
    where x is hidden. With guidance weight :math:`w`, draws given x use
    :math:`(1 + w) \hat\xi(x) - w\, \hat\xi(\varnothing)`.

    References:
        DAMC (arXiv 2310.03218), section 3.3 and Table S3; DDPM (arXiv 2006.11239); classifier-free guidance (arXiv
        2207.12598).

    Arguments:
        latent_layout: The groups of a position.
        data_shape: Shape of one item, without batch.
        encoder: Describes x, by :meth:`genfw.Encoder.embed`; part of the amortizer, and trained with it.
        steps: :math:`S`, evaluations of the network per draw.
        solver: ``ancestral`` is the paper's walk (100 steps); ``ddim`` and ``dpm-solver`` (DPM-Solver++ 2M) are
            deterministic after the first noise, and 10 to 25 steps do.
        variance: :math:`\gamma` of the ancestral walk, from its smallest variance (0) to its largest (1).
        guidance: :math:`w`; at 0 the conditional law itself.
        token: The null token: ``noise`` is a small network of fresh normal noise, as in the published code;
            ``constant`` is one learned vector, as in the paper.
        log_snr: Range of the log signal-to-noise ratio, noise first.
        widths: Outputs of the network's blocks on the way down.
        time_features: Length of the time embedding.
        draw_precision: What matrix products and the encoder's layers are computed in when drawing; positions stay in
            the model's. ``bf16`` pays where the processor multiplies in it.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 4, "widths": (16, 16)}

    def __init__(
        self,
        latent_layout: NoiseLayout,
        data_shape: Size,
        encoder: Encoder,
        steps: int = 100,
        solver: Solver = "ancestral",
        variance: float = 1.0,
        guidance: float = 0.0,
        token: Literal["noise", "constant"] = "noise",
        log_snr: tuple[float, float] = (-5.1, 9.8),
        widths: tuple[int, ...] = (128, 256, 256),
        time_features: int = 128,
        draw_precision: Literal["model", "bf16"] = "model",
    ) -> None:
        super().__init__()
        at_least(2).check(steps=steps)  # one at each end of log_snr
        within(0, 1).check(variance=variance)
        at_least(0).check(guidance=guidance)
        self.size, self.steps, self.solver = latent_layout.size, steps, solver
        self.variance, self.guidance, self.precision = variance, guidance, draw_precision
        self.schedule = CosineSchedule(*log_snr)
        self._log_snr = self.schedule.grid(steps, even=solver != "ancestral")
        #: The same on the device and in the precision of the last draw.
        self._ratios = self._log_snr
        self.encoder = encoder
        with frozen(encoder), torch.no_grad():
            context = encoder.embed(torch.zeros(1, *data_shape)).shape[1]
        self.network = MLPUNet(self.size, context, widths, time_features)
        self.constant: nn.Parameter | None = None
        self.null: nn.Sequential | None = None
        if token == "constant":
            self.constant = nn.Parameter(torch.zeros(1, context))
        else:
            self.null = nn.Sequential(nn.Linear(self.size, 128), nn.LeakyReLU(), nn.Linear(128, context))

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self._walk(count, self._hidden(count, generator), None, generator)

    def sample_given(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            hidden = self._hidden(len(x), generator) if self.guidance else None
            return self._walk(len(x), self._described(x), hidden, generator)

    def loss(
        self, position: Tensor, x: Tensor | None, *, generator: torch.Generator, hidden: Tensor | None = None
    ) -> Tensor:
        count, device, dtype = len(position), position.device, position.dtype
        u = torch.rand(count, generator=generator, device=device, dtype=dtype)
        noise = torch.randn(position.shape, generator=generator, device=device, dtype=dtype)
        if x is None:
            context = self._hidden(count, generator)
        else:
            context = self.encoder.embed(x)
            if hidden is not None:
                context = torch.where(hidden[:, None], self._hidden(count, generator).to(context.dtype), context)
        log_snr = self.schedule(u)
        alpha, sigma = alpha_sigma(log_snr)
        diffused = alpha[:, None] * position + sigma[:, None] * noise
        condition = self.network.of_time(log_snr) + self.network.of_context(context)
        error: Tensor = self.network(diffused, condition) - noise
        return 0.5 * error.square().sum(1)

    def _described(self, x: Tensor) -> Tensor:
        """Contexts of draws given x; in bfloat16 images lie channels last, as its convolutions want them."""
        if self.precision == "model":
            return self.encoder.embed(x)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.encoder.embed(x).to(x.dtype)

    def _hidden(self, count: int, generator: torch.Generator) -> Tensor:
        """Contexts where x is hidden: a row each, or one for all."""
        if self.null is None:
            assert self.constant is not None  # the constructor makes one of the two
            return self.constant
        made: Tensor = self.null(self._noise(count, generator))
        return made

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        like = self.network.frequencies
        return torch.randn(count, self.size, generator=generator, device=like.device, dtype=like.dtype)

    def _walk(self, count: int, context: Tensor, hidden: Tensor | None, generator: torch.Generator) -> Tensor:
        dtype = torch.bfloat16 if self.precision == "bf16" else None
        like, log_snr = self.network.frequencies, self._log_snr
        if self._ratios.device != like.device or self._ratios.dtype != like.dtype:
            self._ratios = log_snr.to(like)
        time = self.network.of_time(self._ratios)
        given = Walk(self.network, time, context, dtype)
        null = None if hidden is None else Walk(self.network, time, hidden, dtype)

        def predict(position: Tensor, step: int) -> Tensor:
            noise = given(position, step)
            if null is not None:
                noise = noise + self.guidance * (noise - null(position, step))
            return noise

        position = self._noise(count, generator)
        match self.solver:
            case "ancestral":
                return ancestral(predict, log_snr, position, generator, self.variance)
            case "ddim":
                return ddim(predict, log_snr, position)
            case "dpm-solver":
                return dpm_solver(predict, log_snr, position)

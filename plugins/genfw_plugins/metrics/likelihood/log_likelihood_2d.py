"""Exact log-likelihood of a model over two numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Evaluation, Figure, Metric, Result
from genfw.evaluation.pictures import Canvas, draw_samples_2d
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.likelihood.density import Grid, Mixture, draw_mixture, importance_log_prob

#: Grid points that the energy reads at once.
_BATCH = 40_000


@attrs.frozen(eq=False)
class _Normaliser:
    r""":math:`\log Z` in two ways, and the densities on the grid it was integrated over."""

    grid: Grid
    log_z: float
    log_z_importance: float | None
    error: float | None
    mass: float | None
    generator: Tensor
    tilted: Tensor
    energy: Tensor

    @property
    def model(self) -> Tensor:
        """Normalised log density of the model on the grid."""
        return self.tilted - self.energy - self.log_z


@attrs.define(kw_only=True, eq=False, slots=False)
class LogLikelihood2D(Metric):
    r"""Mean log-likelihood of test points under :math:`h(x) = q(x)\, e^{-E(x)} / Z`, for models over two numbers.

    :math:`q` is the generator's density (with its energies on the latent, unnormalised),
    :math:`Z = \int q(x)\, e^{-E(x)}\, dx`. The integral is taken on a grid, where :math:`q` is an average of
    ``draws`` decoded prior draws in closed form, and a second time by importance sampling,
    :math:`Z \approx \frac{1}{N} \sum e^{-E(x_n)}` over draws of the generator; both are reported. At the test points
    :math:`q` comes from the same prior draws, or from the encoder by importance sampling.

    The likelihood of the generator alone and of the law the data came from (where the data set knows it) are reported
    beside it.

    References:
        Xiao et al., VAEBM (ICLR 2021), section 5.4. Burda et al., Importance Weighted Autoencoders (ICLR 2016).

    Arguments:
        split: Split that is scored.
        count: Points of it, all where absent.
        density: :math:`q` at the test points: ``prior``, in closed form over the prior draws (read off the grid by
            bicubic interpolation), or ``encoder``, by importance sampling as in the paper, which is slower and
            biased downwards by a finite ``importance``; ``prior`` in any case where there is no encoder.
        importance: Draws per point for ``encoder``; the paper takes 10,000.
        draws: Prior draws :math:`N` for the closed form, the grid, and the second :math:`Z`.
        grid: Points per axis.
        window: ``[left, right, bottom, top]`` of the grid; where data and generator draws lie, and a margin, where
            absent.
        samples: Samples of the model to scatter; 0 draws none.
    """

    smoke: ClassVar[dict[str, Any]] = {"count": 200, "importance": 10, "draws": 2000, "grid": 81, "samples": 200}

    split: str = "test"
    count: int | None = None
    density: Literal["prior", "encoder"] = "prior"
    importance: int = attrs.field(default=1000, validator=at_least(1))
    draws: int = attrs.field(default=400_000, validator=at_least(2))
    grid: int = attrs.field(default=801, validator=at_least(2))
    window: list[float] | None = None
    samples: int = 2000

    def __attrs_post_init__(self) -> None:
        window = self.window
        if window is not None and not (len(window) == 4 and window[0] < window[1] and window[2] < window[3]):
            raise ContractError(f"a window is [left, right, bottom, top], got {window}")

    def examine(self, evaluation: Evaluation) -> None:
        shape = evaluation.model.data_shape
        if math.prod(shape) != 2:
            raise ContractError(f"this metric is for data of two numbers, here an item has shape {shape}")

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        model = evaluation.model
        x = evaluation.rows(self.split, self.count).x.to(evaluation.device)
        mixture = None
        if model.decoder is not None:
            mixture = draw_mixture(model, self.draws, evaluation.generator("log-likelihood-2d"))
        normaliser = self._normalise(evaluation, x, mixture)
        plain, tilted, density = self._at_points(evaluation, x, mixture, normaliser)
        scores = tilted - self._energy(evaluation, x) - normaliser.log_z

        protocol = evaluation.protocol(
            split=self.split,
            count=len(x),
            density=density,
            importance=self.importance if density == "encoder" else None,
            prior_draws=None if mixture is None else self.draws,
            grid=self.grid,
            window=", ".join(f"{edge:.4g}" for edge in normaliser.grid.window),
            grid_mass=normaliser.mass,
        )
        figures = self._figures(evaluation, x, normaliser)
        results = [_mean("log-likelihood", scores, protocol, figures=figures)]
        if mixture is not None:
            results.append(
                _mean("log-likelihood-generator", plain, protocol, note="The generator alone, without any energy.")
            )
        truth = None if evaluation.data is None else evaluation.data.log_prob(x.cpu())
        if truth is not None:
            note = "The law the data came from, at the same points: the best a model can reach."
            results.append(_mean("log-likelihood-truth", truth.double(), protocol, note=note))
        return results + self._log_z(normaliser, protocol)

    def _log_z(self, normaliser: _Normaliser, protocol: dict[str, Any]) -> list[Result]:
        results = [Result("log-z", normaliser.log_z, "nats", protocol, note="Integrated on the grid.")]
        if normaliser.log_z_importance is not None:
            error, difference = normaliser.error, normaliser.log_z - normaliser.log_z_importance
            note = "Importance sampling over draws of the generator."
            results.append(Result("log-z-importance", normaliser.log_z_importance, "nats", protocol, error, note=note))
            note = "Grid minus importance sampling; far from zero, neither is to be trusted."
            results.append(Result("log-z-difference", difference, "nats", protocol, error, note=note))
        return results

    def _normalise(self, evaluation: Evaluation, x: Tensor, mixture: Mixture | None) -> _Normaliser:
        grid = Grid(self._window(x, mixture), self.grid)
        energy = self._energy(evaluation, grid.points(evaluation.device))
        if mixture is None:
            flat = torch.zeros_like(energy)
            return _Normaliser(grid, grid.log_integral(-energy), None, None, None, flat, flat, energy)
        generator = mixture.log_prob_on(grid, weighted=False)
        tilted = generator
        if evaluation.model.latent_energies:
            tilted = mixture.log_prob_on(grid, weighted=True)
        log_weight = mixture.log_weight.cpu().double() - self._energy(evaluation, mixture.x)
        weight = (log_weight - log_weight.max()).exp()
        return _Normaliser(
            grid=grid,
            log_z=grid.log_integral(tilted - energy),
            log_z_importance=float(torch.logsumexp(log_weight, 0)) - math.log(len(log_weight)),
            error=float(weight.std() / weight.mean()) / math.sqrt(len(weight)),
            mass=math.exp(grid.log_integral(generator)),
            generator=generator,
            tilted=tilted,
            energy=energy,
        )

    def _window(self, x: Tensor, mixture: Mixture | None) -> tuple[float, float, float, float]:
        if self.window is not None:
            left, right, bottom, top = self.window
            return left, right, bottom, top
        points = x.flatten(1)
        if mixture is not None:
            points = torch.cat([points, mixture.x])
        low, high = points.min(0).values, points.max(0).values
        # Beyond its furthest draw the generator has next to no mass; a model without one may reach further than the
        # data.
        margin = (high - low) * (0.05 if mixture is not None else 0.5)
        (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
        return left, right, bottom, top

    def _at_points(
        self, evaluation: Evaluation, x: Tensor, mixture: Mixture | None, normaliser: _Normaliser
    ) -> tuple[Tensor, Tensor, str]:
        """Log density of the generator without and with energies on the latent, and where it came from."""
        model = evaluation.model
        if mixture is None:
            flat = torch.zeros(len(x), dtype=torch.float64)
            return flat, flat, "none"
        if self.density == "encoder" and model.encoder is not None:
            generator = evaluation.generator("log-likelihood-2d/encoder")
            plain, tilted = importance_log_prob(model, x, self.importance, generator)
            return plain, tilted, "encoder"
        plain = _read(normaliser.grid, normaliser.generator, x.flatten(1), mixture, weighted=False)
        if not model.latent_energies:
            return plain, plain, "prior"
        return plain, _read(normaliser.grid, normaliser.tilted, x.flatten(1), mixture, weighted=True), "prior"

    @staticmethod
    def _energy(evaluation: Evaluation, points: Tensor) -> Tensor:
        model = evaluation.model
        with torch.no_grad():
            pieces = [model.data_energy(piece.reshape(-1, *model.data_shape)) for piece in points.split(_BATCH)]
        return torch.cat(pieces).cpu().double()

    def _figures(self, evaluation: Evaluation, x: Tensor, normaliser: _Normaliser) -> list[Figure]:
        grid = normaliser.grid
        panels: list[tuple[str, Tensor]] = []
        truth = None if evaluation.data is None else evaluation.data.log_prob(grid.points())
        if truth is not None:
            panels.append(("truth", truth))
        if evaluation.model.decoder is not None and evaluation.model.energies:
            panels.append(("generator", normaliser.generator))
        panels.append(("model", normaliser.model))
        caption = (
            f"Densities over the same window, {grid.size} × {grid.size} points, on one colour scale that ends at the "
            f"largest value of the {panels[0][0]}."
        )
        size = (2.9 * len(panels) + 0.5, 3.1)
        figures = [
            evaluation.figure(
                "density", "Densities", caption, lambda canvas: _draw_densities(canvas, grid, panels), size=size
            )
        ]
        if self.samples:
            drawn = evaluation.samples(self.samples).x
            caption = f"{min(len(x), self.samples):,} test points and {len(drawn):,} samples of the model."
            pair = [("data", x[: self.samples].cpu()), ("samples", drawn)]
            figures.append(
                evaluation.figure(
                    "samples-2d", "Samples", caption, lambda canvas: _draw_pair(canvas, grid, pair), size=(6.3, 3.2),
                    shows_data=True,
                )
            )  # fmt: skip
        return figures


def _read(grid: Grid, log_density: Tensor, x: Tensor, mixture: Mixture, *, weighted: bool) -> Tensor:
    """Log density of the generator at ``x``: read off the grid, and summed anew where the grid can't tell."""
    values = grid.interpolate(log_density, x).cpu()
    beyond = ~values.isfinite()
    if beyond.any():
        values[beyond] = mixture.log_prob(x[beyond.to(x.device)], weighted=weighted)
    return values


def _mean(
    name: str, scores: Tensor, protocol: dict[str, Any], *, note: str = "", figures: Sequence[Figure] = ()
) -> Result:
    error = float(scores.std()) / math.sqrt(len(scores)) if len(scores) > 1 else None
    return Result(name, float(scores.mean()), "nats", protocol, error, "higher", note, figures)


def _draw_densities(canvas: Canvas, grid: Grid, panels: Sequence[tuple[str, Tensor]]) -> None:
    every = max(1, grid.size // 400)
    pictures = [
        (name, log_density.double().exp().reshape(grid.size, grid.size)[::every, ::every].T.numpy())
        for name, log_density in panels
    ]
    top = float(pictures[0][1].max())
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    image = None
    for panel, (name, picture) in zip(axes, pictures, strict=True):
        image = panel.imshow(picture, origin="lower", extent=grid.window, vmin=0.0, vmax=top, aspect="equal")
        panel.set(title=name, xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
    if image is not None:
        bar = canvas.colorbar(image, ax=list(axes), shrink=0.8, pad=0.01)
        bar.outline.set_visible(False)


def _draw_pair(canvas: Canvas, grid: Grid, pair: Sequence[tuple[str, Tensor]]) -> None:
    for panel, (name, points) in zip(canvas.subplots(1, 2), pair, strict=True):
        draw_samples_2d(panel, points, name, window=grid.window)

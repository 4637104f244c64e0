"""The likelihood of test data under latent-variable models, held between a lower and an upper estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import Chain, ContractError, Evaluation, Metric, PriorTarget, Result, Sampler, run_chain
from genfw.models.freezing import frozen_for_chain
from genfw.models.sampling import preserved
from genfw.plugins.signature import summarise
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.likelihood.annealing import Bound, anneal, log_mean
from genfw_plugins.metrics.likelihood.evidence import bracket, items_at_once


@attrs.define(kw_only=True, eq=False, slots=False)
class LogLikelihood(Metric):
    r"""Mean log density of test data, :math:`\log p(x) = \log \int p(x \mid z)\, e^{-E(z)}\, p(z)\, dz - \log Z`.

    The integral by importance sampling: proposals of the encoder, or of a normal law fitted to posterior chains; the
    mean of ``draws`` weights is too low on average, and too high where one proposal is replaced by a draw of the
    posterior (``sampler`` makes one). With an energy on the latent, :math:`\log Z` by annealed importance sampling:
    too low forward, from the base to the prior :math:`p_\alpha`; too high in reverse, from draws of :math:`p_\alpha`,
    made of the forward chains' ends by resampling and ``settle`` moves. Lower less upper, and upper less lower, give
    ``log-likelihood`` and ``log-likelihood-upper``; ``log-z-lower`` and ``log-z-upper`` stand beside them. Where both
    pairs lie close together the number can be trusted.

    Both upper estimates are as good as the chains that draw from posterior and prior: chains that miss a mode make
    them too low. Densities are of the data as they are scaled (images in [-1, 1]), not of pixels.

    References:
        Burda et al., Importance weighted autoencoders (ICLR 2016); Neal, Annealed importance sampling, 2001; Grosse et
        al., Sandwiching the marginal likelihood, 2015.

    Arguments:
        sampler: Kernel that leaves its target invariant, such as ``hmc`` or ``mala`` (``adapt: false`` keeps it exact);
            its ``steps`` moves are made at each temperature. Without one there are no upper estimates, and it is needed
            with an energy on the latent.
        chain: Posterior chains, from which proposals are fitted; the encoder proposes where absent.
        draws: Proposals per item.
        refine: Moves that make a draw of the posterior of a proposal.
        fits: Chains per item that a proposal is fitted to.
        temperatures: Steps of the annealing.
        chains: Chains of the annealing.
        settle: Moves of the prior's draws before they are annealed back.
        split: Split of the data.
        count: Rows of it; all where absent.
        batch: Proposals evaluated at once.
    """

    smoke: ClassVar[dict[str, Any]] = {
        "draws": 8, "refine": 2, "fits": 4, "temperatures": 4, "chains": 8, "settle": 2, "count": 8,
    }  # fmt: skip

    sampler: Sampler | None = None
    chain: Chain | None = None
    draws: int = attrs.field(default=500, validator=at_least(1))
    refine: int = attrs.field(default=20, validator=at_least(0))
    fits: int = attrs.field(default=32, validator=at_least(2))
    temperatures: int = attrs.field(default=500, validator=at_least(1))
    chains: int = attrs.field(default=256, validator=at_least(2))
    settle: int = attrs.field(default=200, validator=at_least(0))
    split: str = "test"
    count: int | None = 500
    batch: int = attrs.field(default=20_000, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if self.chain is not None and self.chain.count is not None:
            raise ContractError("fits says how many chains there are for an item; leave 'count' out of chain")

    def examine(self, evaluation: Evaluation) -> None:
        model, chain, sampler = evaluation.model, self.chain, self.sampler
        if model.data_energies:
            raise ContractError(
                "metric 'log-likelihood' knows no normaliser of energies on data; 'log-likelihood-2d' does, for two "
                "numbers"
            )
        if model.encoder is None and chain is None:
            raise ContractError(
                "metric 'log-likelihood' needs proposals: an encoder in the recipe, or posterior chains "
                "(chain: {sampler: ..., start: ...})"
            )
        if model.latent_energies and sampler is None:
            raise ContractError(
                "with an energy on the latent, log Z is annealed: name a kernel under 'sampler', such as "
                "{use: hmc, adapt: false}"
            )

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        model, chain, sampler = evaluation.model, self.chain, self.sampler
        rows = evaluation.rows(self.split, self.count)
        parts = rows.x.split(items_at_once(self.draws, self.fits, self.batch))
        below_and_above = evaluation.spread(self._bracket, list(enumerate(parts)))
        lower = torch.cat([low for low, _ in below_and_above])
        highs = [high for _, high in below_and_above if high is not None]
        upper = torch.cat(highs) if len(highs) == len(parts) else None
        log_z = self._log_z(evaluation) if sampler is not None and model.latent_energies else None
        posterior = {} if chain is None else chain.protocol()
        protocol = evaluation.protocol(
            split=self.split,
            count=len(rows),
            proposal="encoder" if chain is None else f"normal law fitted to {self.fits} posterior chains",
            draws=self.draws,
            posterior_sampler=posterior.get("sampler"),
            posterior_start=posterior.get("start"),
            sampler=None if sampler is None else summarise(sampler),
            temperatures=None if log_z is None else self.temperatures,
            chains=None if log_z is None else self.chains,
        )
        below, above = log_z or (Bound(0.0, 0.0), Bound(0.0, 0.0))
        note = f"Lower estimate: importance sampling with {self.draws} draws" + (
            ", less the upper estimate of log Z." if log_z else "."
        )
        results = [_result("log-likelihood", _mean(lower), above, protocol, note, "higher")]
        if upper is not None:
            note = "Upper estimate, with a draw of each posterior" + (
                ", less the lower estimate of log Z." if log_z else "."
            )
            results.append(_result("log-likelihood-upper", _mean(upper), below, protocol, note))
        if log_z is not None:
            zero = Bound(0.0, 0.0)
            results += [
                _result("log-z-lower", below, zero, protocol, "Forward, from the base to the prior."),
                _result("log-z-upper", above, zero, protocol, "In reverse, from draws of the prior."),
            ]
        return results

    def _bracket(self, evaluation: Evaluation, number: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Lower and upper estimates of the integral for some items, each with shape ``(B,)``."""
        kernels = [part for part in (self.chain, self.sampler) if part is not None]
        with preserved(*kernels):
            return bracket(
                evaluation.model, x.to(evaluation.device), self.draws, self.chain, self.sampler,
                generator=evaluation.generator(f"log-likelihood.{number}"),
                refine=self.refine, fits=self.fits, batch=self.batch,
            )  # fmt: skip

    def _log_z(self, evaluation: Evaluation) -> tuple[Bound, Bound]:
        """Lower and upper estimate of log Z of the latent prior, relative to the base."""
        assert self.sampler is not None  # refused in compute
        target = PriorTarget(evaluation.model)
        generator = evaluation.generator("log-z")
        with preserved(self.sampler), frozen_for_chain(*target.modules()), torch.no_grad():
            base = target.draw_base(self.chains, generator).to(evaluation.model.anchor.dtype)
            forward, end = anneal(target, self.sampler, base, self.temperatures, generator=generator)
            chosen = torch.multinomial(torch.softmax(forward, 0), self.chains, replacement=True, generator=generator)
            settled = run_chain(
                target, self.sampler, end[chosen], generator=generator, steps=self.settle, end_potential=False
            )
            exact = settled.position
            backward, _ = anneal(target, self.sampler, exact, self.temperatures, generator=generator, reverse=True)
        low, high = log_mean(forward), log_mean(backward)
        return low, Bound(-high.value, high.error)


def _mean(values: Tensor) -> Bound:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Bound(float(values.mean()), error)


def _result(name: str, value: Bound, less: Bound, protocol: dict[str, Any], note: str, better: str = "") -> Result:
    error = math.hypot(value.error, less.error)
    known = None if math.isnan(error) else error
    return Result(name, value.value - less.value, "nats", protocol, known, better, note)

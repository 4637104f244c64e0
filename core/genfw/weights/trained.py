"""A trained model to use: samples, reconstructions, scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from genfw.engine.finished import load_run
from genfw.errors import ContractError
from genfw.models.chains import Chain
from genfw.models.freezing import frozen
from genfw.models.model import Model
from genfw.models.sampling import Samples, draw_samples, preserved, reconstruct
from genfw.models.targets import PosteriorTarget
from genfw.plugins import load_plugins
from genfw.plugins.registry import Registry
from genfw.randomness import derive_seed
from genfw.recipes.compose import Composition
from genfw.runs.cards import Card, find_trained, read_card
from genfw.runs.directory import RunDirectory
from genfw.runs.pages.notebook import html_table


def load(
    name: str | Path,
    *,
    root: str | Path = "runs",
    checkpoint: str = "best",
    device: str | None = "cpu",
    registry: Registry | None = None,
) -> Trained:
    """A trained model: from a folder that :func:`genfw.save` wrote, of a run, or shipped with genfw.

    Only safetensors and YAML are read. Nothing in a model's folder is executed.

    Arguments:
        name: A folder; a run's name or a recipe's name for its latest run; or a shipped model's name, see ``genfw
            models``.
        root: Folder of all runs.
        checkpoint: See :func:`~genfw.engine.finished.load_run`; a saved model has one state.
        device: Device of the model; ``None`` takes the fastest there is.
        registry: Plugins; the installed ones by default.

    Raises:
        RunError: Nothing has that name, or the files are damaged.
    """
    registry = registry or load_plugins()
    folder = find_trained(name, root, registry.model_dirs())
    composition = load_run(folder, checkpoint=checkpoint, device=device, registry=registry)
    card = RunDirectory(folder).card
    return Trained(composition, read_card(card) if card.is_file() else None)


class Trained:
    r"""A trained model with the way to sample from it.

    Arguments:
        composition: Its parts.
        card: What is known about it, if anything.
    """

    def __init__(self, composition: Composition, card: Card | None = None) -> None:
        self.composition, self.card = composition, card

    @property
    def name(self) -> str:
        """The model's name."""
        return self.composition.name if self.card is None else self.card.name

    @property
    def model(self) -> Model:
        """The model itself."""
        return self.composition.model

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.anchor.device

    def to(self, device: str | torch.device) -> Trained:
        """Move the model to a device."""
        self.model.to(device)
        return self

    def sample(self, count: int | None = None, *, seed: int | None = None) -> Tensor:
        r"""Draw from the model, as its recipe says.

        Arguments:
            count: Count of samples; the recipe's by default.
            seed: Source of all randomness; the recipe's by default. The same seed gives the same samples.

        Returns:
            Data on the CPU, with shape :math:`(N, *)`; images in [-1, 1].
        """
        return self.draw(count, seed=seed).x

    def draw(self, count: int | None = None, *, seed: int | None = None) -> Samples:
        """The same draws as :meth:`sample`, with positions, potentials and the chains' acceptance."""
        settings = self.composition.sample
        count, seed = count or settings.count, self._seed(seed)
        with frozen(self.model):
            return draw_samples(self.model, settings, count, seed=seed, device=self.device)

    def reconstruct(self, x: Tensor, *, chain: Chain | None = None, seed: int | None = None) -> Tensor:
        r"""The decoder's mean for a latent of each item.

        The latent is where a posterior chain ends: ``chain``, or that of the recipe's metric ``reconstruction``.
        Without a chain it is the encoder's centre, or else the amortizer's draw.

        Arguments:
            x: Data, with shape :math:`(B, *)`.
            chain: Posterior chain, one per item.
            seed: Source of all randomness.

        Returns:
            Data on the CPU, with shape :math:`(B, *)`.

        Raises:
            ContractError: The model has none of these.
        """
        chain = chain or self._chain()
        model = self.model

        def work(part: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
            if chain is not None or model.encoder is not None:
                return reconstruct(model, part, index, chain=chain, generator=generator, temperature=0.0)
            return model.likelihood(model.latent(self._inferred(part, generator))).mean

        return self._in_batches("reconstruct", x, seed, work)

    def score(self, x: Tensor, *, chain: Chain | None = None, seed: int | None = None) -> Tensor:
        r"""How likely each item is under the model, in nats up to one constant for all; high where data lie.

        - Without a decoder: :math:`-E(x)`.
        - With an encoder: :math:`\log p(x \mid z) - \mathrm{KL}[q \| p] - E(z) - E(x)` with :math:`z \sim q(z \mid x)`,
          a lower bound of :math:`\log h(x)`.
        - Otherwise :math:`\log p(x \mid z) - |\epsilon_z|^2/2 - E(z) - E(x)` where a posterior chain or the amortizer
          ends, see :meth:`reconstruct`: the decision function of DAMC (arXiv 2310.03218, section 4.2).

        Compare scores of one model only.

        Arguments:
            x: Data, with shape :math:`(B, *)`.
            chain: Posterior chain, one per item, where there is no encoder.
            seed: Source of all randomness.

        Returns:
            Scores on the CPU, with shape :math:`(B,)`.

        Raises:
            ContractError: The model has a decoder, and nothing that finds an item's latent.
        """
        chain = chain or self._chain()

        def work(part: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
            return self._log_joint(part, index, chain, generator) - self.model.data_energy(part)

        return self._in_batches("score", x, seed, work)

    def _log_joint(self, x: Tensor, index: Tensor, chain: Chain | None, generator: torch.Generator) -> Tensor:
        model = self.model
        if model.decoder is None:
            return x.new_zeros(len(x))
        if model.encoder is not None:
            posterior = model.encoder(x, generator=generator)
            bound: Tensor = model.likelihood(posterior.latent).log_prob(x) - posterior.kl.sum(1)
            return bound - model.latent_energy(posterior.latent)
        target = PosteriorTarget(model, x)
        if chain is None:
            position = self._inferred(x, generator)
        else:
            with preserved(chain):
                ends = chain.run(target, len(x), generator=generator, x=x, index=index, end_potential=False)
            position = ends.position[: len(x)]
        return -target.potential(position)

    def _inferred(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Latent noise of each item, from the amortizer."""
        if self.model.amortizer is None:
            raise ContractError(
                f"'{self.name}' has no encoder, amortizer or posterior chain that finds an item's latent; give one: "
                "chain=genfw.Chain(sampler=..., start=...)"
            )
        return self.model.amortizer.sample_given(x, generator=generator)[:, : self.model.latent_layout.size]

    def _chain(self) -> Chain | None:
        """The posterior chain of the recipe's metric ``reconstruction``."""
        for name, metric in self.composition.metrics:
            if name == "reconstruction":
                chain = getattr(metric, "chain", None)
                return chain if isinstance(chain, Chain) else None
        return None

    def _in_batches(
        self, name: str, x: Tensor, seed: int | None, work: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    ) -> Tensor:
        shape = self.model.data_shape
        if tuple(x.shape[1:]) != shape:
            raise ContractError(
                f"'{self.name}' knows items of shape {shape}, so x is (B, *) of these; got {tuple(x.shape)}"
            )
        found, size = [], self.composition.sample.batch
        index = torch.arange(len(x), device=self.device)
        anchor = self.model.anchor
        with frozen(self.model), torch.no_grad():
            for number, (part, rows) in enumerate(zip(x.split(size), index.split(size), strict=True)):
                generator = torch.Generator(self.device).manual_seed(derive_seed(self._seed(seed), name, number))
                found.append(work(part.to(anchor), rows, generator).cpu())
        return torch.cat(found) if found else x.new_empty(0, *([] if name == "score" else shape))

    def _seed(self, seed: int | None) -> int:
        return self.composition.seed if seed is None else seed

    def __repr__(self) -> str:
        return f"Trained '{self.name}'(items of shape {self.model.data_shape}, on {self.device})"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [("items", self.model.data_shape), ("device", self.device)]
        if self.card is not None:
            rows = [("what", self.card.description), ("data", self.card.data), *rows]
            rows += [(number.name, f"{number.value:.4g} {number.unit}".strip()) for number in self.card.numbers]
        return html_table(f"Trained '{self.name}'", rows)

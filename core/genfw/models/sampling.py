"""Draw from a trained model, batch by batch, each batch with its own seed."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces.sampler import Sampler
from genfw.interfaces.start import Start
from genfw.interfaces.target import Target
from genfw.interfaces.values import Stateful
from genfw.models.chains import Chain, as_starts, draw_starts, run_chain
from genfw.models.freezing import frozen
from genfw.models.model import Model
from genfw.models.targets import PosteriorTarget, Space, make_target
from genfw.plugins.component import Settings
from genfw.plugins.validators import at_least
from genfw.randomness import derive_seed

#: Chains whose states the report shows.
TRACED_CHAINS = 8
#: Fields of :class:`Samples` with an entry for each sample, and bytes from which such a field may lie in a file.
_PER_SAMPLE, _LARGE = ("x", "position", "potential"), 2**28


def _starts(start: Start | list[Start] | None) -> list[Start]:
    return [] if start is None else as_starts(start)


@attrs.define(kw_only=True, eq=False, slots=False)
class SampleSettings(Settings):
    """The recipe's ``sample:`` section: how to sample from the trained model, for the report and every metric.

    Arguments:
        count: Samples written to the run directory.
        space: Space of the chain; see :mod:`genfw.models.targets`.
        sampler: Kernel; without one, samples are draws of ``start``.
        start: Where chains begin; several share the samples evenly. By default fresh draws of the target's base.
        batch: Chains that run at once.
        mean: Show the decoder's mean instead of a draw from it.
        temperature: Factor on the generator's latent noise; must be 1 with a sampler.
        keep_every: Steps between the chain states shown in the report; 0 shows none.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"count": 16, "batch": 16}

    count: int = attrs.field(default=64, validator=at_least(1))
    space: Space = "noise"
    sampler: Sampler | None = None
    starts: list[Start] = attrs.field(default=None, converter=_starts, alias="start")
    batch: int = attrs.field(default=500, validator=at_least(1))
    mean: bool = False
    temperature: float = attrs.field(default=1.0, validator=at_least(0))
    keep_every: int = attrs.field(default=0, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        if self.space == "posterior":
            raise ContractError("samples are drawn without data to condition on; space can't be 'posterior'")
        if self.temperature != 1.0 and self.sampler is not None:
            raise ContractError("a temperature other than 1 goes with plain generation, without a sampler")


@attrs.frozen(eq=False)
class Samples:
    r"""Samples from a trained model, on the CPU.

    Arguments:
        x: Data, with shape :math:`(N, *)`.
        position: The positions they were decoded from, with shape :math:`(N, D)`.
        potential: Potential there in nats, with shape :math:`(N,)`.
        acceptance: Mean acceptance probability of the chains; ``None`` without a sampler.
        trace: Data along the first few chains, with shape :math:`(K, n, *)`; ``K = 0`` where ``keep_every`` is 0.
        potentials: Potential of all chains of the first batch at the recorded steps, with shape :math:`(K, B)`.
        kept: Step of each recorded state.
        seconds: Time of drawing and decoding.
    """

    x: Tensor
    position: Tensor
    potential: Tensor
    acceptance: float | None
    trace: Tensor
    potentials: Tensor
    kept: tuple[int, ...]
    seconds: float

    def __len__(self) -> int:
        return self.x.shape[0]


@contextmanager
def preserved(*parts: Stateful) -> Iterator[None]:
    """Restore the state of ``parts`` afterwards: sampling must not change a step size or fill a replay buffer."""
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    try:
        yield
    finally:
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)


def synchronise(device: torch.device | str) -> None:
    """Wait until ``device`` has finished its work, so that a time measured next is correct."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def draw_samples(
    model: Model, settings: SampleSettings, count: int, *, seed: int, device: torch.device | str = "cpu"
) -> Samples:
    r"""Draw ``count`` items from the model as the recipe's ``sample:`` section says.

    Batch :math:`k` takes all its randomness from a generator seeded by ``seed`` and :math:`k`, and kernels and starts
    begin every batch in the same state. So the samples do not depend on earlier draws.

    Arguments:
        model: The model, its weights on ``device``; it is not changed.
        settings: Space, kernel, starts, batch, mean or draw, temperature.
        count: Count of items.
        seed: Source of all randomness.
        device: Where chains run; the result is on the CPU.

    Returns:
        The samples, with the chains' potentials and acceptance.

    Raises:
        ContractError: The model has no such space, or the settings contradict one another.
    """
    indices = range(count_batches(settings, count))
    synchronise(device)
    return join_batches(
        (draw_batch(model, settings, count, index, seed=seed, device=device) for index in indices), count
    )


def join_batches(batches: Iterable[Samples], count: int, folder: Path | None = None) -> Samples:
    """Concatenate batches, one of which is in memory at a time; the recorded chains are those of the first.

    Arguments:
        batches: The batches, in order; at least one.
        count: Count of samples in all of them.
        folder: Where large tensors lie, each in a file without a name, so that the system may take them out of memory;
            they stay in memory where absent.
    """
    began, done, accepted = time.perf_counter(), 0, 0.0
    whole: Samples | None = None
    for batch in batches:
        if whole is None:
            rooms: dict[str, Any] = {name: _room(getattr(batch, name), count, folder) for name in _PER_SAMPLE}
            whole = attrs.evolve(batch, **rooms)
        for name in _PER_SAMPLE:
            getattr(whole, name)[done : done + len(batch)] = getattr(batch, name)
        done += len(batch)
        accepted += len(batch) * (batch.acceptance or 0.0)
    assert whole is not None
    rate = None if whole.acceptance is None else accepted / count
    return attrs.evolve(whole, acceptance=rate, seconds=time.perf_counter() - began)


def _room(like: Tensor, count: int, folder: Path | None) -> Tensor:
    """Room for ``count`` items like those of a batch."""
    shape = (count, *like.shape[1:])
    size = math.prod(shape)
    if folder is None or size * like.element_size() < _LARGE:
        return like.new_empty(shape)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".samples-", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):  # a full disk is told here, where a page that finds no room kills a process
            os.posix_fallocate(handle, 0, size * like.element_size())
        return torch.from_file(name, shared=True, size=size, dtype=like.dtype).view(shape)
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # Windows keeps the name while the file is in use
            os.unlink(name)


def count_batches(settings: SampleSettings, count: int) -> int:
    """Count of batches for ``count`` samples.

    Raises:
        ContractError: ``count`` is below 1.
    """
    if count < 1:
        raise ContractError(f"draw at least 1 sample, got {count}")
    return -(-count // settings.batch)


def draw_batch(
    model: Model,
    settings: SampleSettings,
    count: int,
    index: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> Samples:
    """One batch of :func:`draw_samples`, the same in every process and after any other draws.

    Arguments:
        model: See :func:`draw_samples`.
        settings: See :func:`draw_samples`.
        count: Items of all batches.
        index: Index of the batch.
        seed: Source of all randomness.
        device: Where chains run.
    """
    target = make_target(model, settings.space)
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "sample", index))
    size = min(settings.batch, count - index * settings.batch)
    # Chains prepare what depends on weights for themselves; for one decoding that would take longer than it saves.
    with preserved(*stateful_parts(settings)), frozen(*target.modules()), torch.no_grad():
        return _draw_batch(model, target, settings, size, generator, settings.keep_every if index == 0 else 0)


def stateful_parts(settings: SampleSettings) -> list[Stateful]:
    """The parts with a state that outlives a chain: the starts and the kernel."""
    return [*settings.starts, *([] if settings.sampler is None else [settings.sampler])]


def _draw_batch(
    model: Model, target: Target, settings: SampleSettings, count: int, generator: torch.Generator, keep_every: int
) -> Samples:
    position = draw_starts(target, settings.starts, count, generator)
    if settings.sampler is None:
        x = _decode(model, target, settings, position, generator)
        return Samples(
            x=x.cpu(),
            position=position.cpu(),
            potential=target.potential(position).cpu(),
            acceptance=None,
            trace=x.new_empty(0, 0, *x.shape[1:]).cpu(),
            potentials=x.new_empty(0, count).cpu(),
            kept=(),
            seconds=0.0,
        )
    chain = run_chain(target, settings.sampler, position, generator=generator, keep_every=keep_every)
    x = _decode(model, target, settings, chain.position, generator)
    return Samples(
        x=x.cpu(),
        position=chain.position.cpu(),
        potential=chain.potential.cpu(),
        acceptance=float(chain.acceptance.mean()),
        trace=_decode_trace(target, settings, chain.trace[:, :TRACED_CHAINS], generator, x),
        potentials=chain.potentials.cpu(),
        kept=chain.kept,
        seconds=0.0,
    )


@torch.no_grad()
def reconstruct(
    model: Model,
    x: Tensor,
    index: Tensor,
    *,
    chain: Chain | None,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Tensor:
    r"""The decoder's mean for a latent of each item: the end of a posterior chain, or the encoder's draw.

    Arguments:
        model: The model, with an encoder where there is no chain.
        x: Data, with shape :math:`(B, *)`, on the model's device.
        index: Their row numbers, with shape :math:`(B,)`.
        chain: Posterior chain, one per item; its state is not changed.
        generator: Source of all randomness.
        temperature: Factor on the scale of the encoder's draw; 0 takes its centre.
    """
    if chain is None:
        assert model.encoder is not None  # metrics refuse a model with neither
        return model.likelihood(model.encoder(x, generator=generator, temperature=temperature).latent).mean
    target = PosteriorTarget(model, x)
    with preserved(chain):
        ends = chain.run(target, len(x), generator=generator, x=x, index=index, end_potential=False)
    return target.to_data(ends.position[: len(x)], mean=True)


def _decode(
    model: Model, target: Target, settings: SampleSettings, position: Tensor, generator: torch.Generator
) -> Tensor:
    if settings.temperature == 1.0:
        return target.to_data(position, mean=settings.mean, generator=generator)
    if settings.space not in ("noise", "prior"):
        raise ContractError(f"a temperature acts on latent noise, which space '{settings.space}' does not have")
    return model.decode(position, settings.temperature, mean=settings.mean, generator=generator)


def _decode_trace(
    target: Target, settings: SampleSettings, trace: Tensor, generator: torch.Generator, x: Tensor
) -> Tensor:
    if trace.shape[0] == 0:
        return x.new_empty(0, 0, *x.shape[1:]).cpu()
    # The same decoder noise at every recorded step: only the chain changes from image to image.
    noise = torch.Generator(generator.device)
    seed = generator.initial_seed()
    states = [target.to_data(state, mean=settings.mean, generator=noise.manual_seed(seed)) for state in trace]
    return torch.stack(states).cpu()

"""An optimiser step: schedule, clipping, averaging over processes, weight average."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces.values import StateTree
from genfw.plugins.component import Settings
from genfw.plugins.validators import at_least, positive
from genfw.training.optimizer import OptimizerFactory
from genfw.training.stage import StageRun


@attrs.define(kw_only=True, eq=False, slots=False)
class Clip(Settings):
    r"""How gradients are clipped before a step.

    Arguments:
        norm: Largest Euclidean norm of the whole gradient.
        sigmas: :math:`k`: clamp every element to :math:`\pm (k \sqrt{\hat v} + \text{offset})` with Adam's
            bias-corrected second moment :math:`\hat v` (IGEBM; VAEBM App. E with k = 3). Needs an Adam-like optimiser;
            the first step is not clamped.
        offset: Added to the clamp's limit.
    """

    norm: float | None = attrs.field(default=None, validator=positive)
    sigmas: float | None = attrs.field(default=None, validator=positive)
    offset: float = attrs.field(default=0.1, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        if self.norm is None and self.sigmas is None:
            raise ContractError("clip needs norm, sigmas or both")


class Updater:
    """An optimiser over some networks for one stage, and the average of their weights.

    Arguments:
        networks: The networks to train; each parameter once.
        factory: The optimiser, and its learning rate over the stage.
        run: The stage's run: processes to average gradients over, and the health monitor's cut of the learning rate.
        steps: Length of the stage, for the schedule.
        clip: Gradient clipping.
        average: Decay of the weight average, which :meth:`finish` leaves in the networks; 0 for no average.
        average_every: Updates between updates of the average.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        factory: OptimizerFactory,
        run: StageRun,
        steps: int,
        clip: Clip | None = None,
        average: float = 0.0,
        average_every: int = 1,
    ) -> None:
        self.parameters = list(
            dict.fromkeys(p for network in networks for p in network.parameters() if p.requires_grad)
        )
        if not self.parameters:
            raise ContractError("there is nothing to train: the networks of this stage have no parameters")
        self.factory, self.run, self.steps, self.clip = factory, run, steps, clip
        self.optimizer = factory.build(self.parameters)
        _check_decay(average)
        self.decay, self.average_every = average, average_every
        self._network = networks[0] if len(networks) == 1 else nn.ModuleList(networks)
        #: Created at the first update, because a stage may set weights in its ``prepare``.
        self.average: WeightAverage | None = None
        #: Sums of gradients since the last update, and of how many steps.
        self._sums: list[Tensor] = []
        self._summed = 0

    def update(self, loss: Tensor, step: int) -> Tensor:
        """Take one optimiser step on ``loss``, or add its gradient to those of the next step that is taken.

        Arguments:
            loss: A scalar with graph.
            step: Step within the stage, from 0, for the schedule.

        Returns:
            Norm of the gradient before clipping, 0-dim, on the device; where no step is taken, of this loss's gradient
            in this process.
        """
        if self.decay and self.average is None:
            self.average = WeightAverage(self._network, self.decay)
        for parameter in self.parameters:  # the optimiser's own zero_grad takes as long as a layer of a small network
            parameter.grad = None
        # Gradients only for these parameters, whatever else the loss depends on.
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else _laid_out(gradient, parameter)
        if not self._accumulated():
            return self._norm([_grad(parameter) for parameter in self.parameters])
        self._average_over_processes()
        with torch.no_grad():
            # Lists of tensors, not loops over them: a few kernels for all parameters.
            laid_out = [_grad(parameter) for parameter in self.parameters]
            norm = self._norm(laid_out)
            if self.clip is not None:
                self._clip(self.clip, laid_out, norm)
        reached = max(step, int(self.run.spent * self.steps))
        rate = self.factory.lr * self.factory.factor(reached, self.steps) * self.run.lr_scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None and (step + 1) // self.factory.accumulate % self.average_every == 0:
            self.average.update()
        return norm

    @staticmethod
    @torch.no_grad()
    def _norm(gradients: list[Tensor]) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    @torch.no_grad()
    def _accumulated(self) -> bool:
        """Whether enough gradients have come for an update; the parameters then have their mean."""
        if self.factory.accumulate == 1:
            return True
        if not self._sums:
            self._sums = [torch.zeros_like(parameter) for parameter in self.parameters]
        torch._foreach_add_(self._sums, [_grad(parameter) for parameter in self.parameters])
        self._summed += 1
        if self._summed < self.factory.accumulate:
            return False
        torch._foreach_div_(self._sums, float(self._summed))
        for total, parameter in zip(self._sums, self.parameters, strict=True):
            parameter.grad = total
        self._sums, self._summed = [], 0
        return True

    def _clip(self, clip: Clip, gradients: list[Tensor], norm: Tensor) -> None:
        if clip.norm is not None:
            torch._foreach_mul_(gradients, (clip.norm / (norm + 1e-6)).clamp(max=1.0))
        states = [self.optimizer.state.get(parameter) or {} for parameter in self.parameters]
        if clip.sigmas is None or "exp_avg_sq" not in states[0]:
            return
        # Every update moves all parameters, so that all have taken the same number of steps.
        correction = 1.0 - self.optimizer.param_groups[0]["betas"][1] ** torch.as_tensor(states[0]["step"])
        limits = torch._foreach_div(
            [state["exp_avg_sq"] for state in states],
            # A count that the optimiser keeps on the host is a number; one on the device stays there.
            correction if correction.device.type != "cpu" else correction.item(),
        )
        torch._foreach_sqrt_(limits)
        torch._foreach_mul_(limits, clip.sigmas)
        torch._foreach_add_(limits, clip.offset)
        torch._foreach_minimum_(gradients, limits)
        torch._foreach_neg_(limits)
        torch._foreach_maximum_(gradients, limits)

    def _average_over_processes(self) -> None:
        fabric = self.run.fabric
        if fabric.world_size == 1:
            return
        # One message with one flat tensor: latency dominates for the many small tensors of these networks.
        flat = torch.cat([_grad(parameter).flatten() for parameter in self.parameters])
        reduced = fabric.all_reduce(flat, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        flat = reduced
        offset = 0
        for parameter in self.parameters:
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block the networks have the weights that :meth:`finish` would leave in them."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def finish(self) -> None:
        """Copy the weight average, if there is one, into the networks."""
        if self.average is not None:
            self.average.apply()

    def state_dict(self) -> StateTree:
        """State of the optimiser and of the average; the parameters are saved with the model."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        sums = {"sums": {"gradients": self._sums, "count": self._summed}} if self._summed else {}
        return {**self.optimizer.state_dict(), **average, **sums}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        own = ("average", "sums")
        self.optimizer.load_state_dict({name: part for name, part in state.items() if name not in own})
        waiting = state.get("sums", {"gradients": [], "count": 0})
        device = self.parameters[0].device
        self._sums = [total.to(device, copy=True) for total in waiting["gradients"]]
        self._summed = int(waiting["count"])
        self.average = WeightAverage(self._network, self.decay) if "average" in state else None
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None  # set by Updater.update for every parameter
    return parameter.grad


def _laid_out(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """The gradient in the memory layout of its parameter, which fused kernels take for granted on the CPU."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < 1.0:
        raise ContractError(f"the decay of a weight average lies in [0, 1), got {decay}")


@torch.no_grad()
def move_average(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor], share: float, moved: Iterable[str]
) -> None:
    r"""Move an average by a share of the way to a network's weights, with a few kernels for all of them.

    .. math:: \bar\theta \leftarrow (1 - s)\, \bar\theta + s\,\theta

    Arguments:
        average: Tensors by name.
        weights: The network's ``state_dict``, with the same names.
        share: :math:`s`.
        moved: Names of the tensors that are averaged; the others are copied.
    """
    names = set(moved)
    for lerped in (True, False):
        chosen = [name for name in weights if (name in names) == lerped]
        own, new = [average[name] for name in chosen], [weights[name] for name in chosen]
        if lerped and chosen:
            torch._foreach_lerp_(own, new, share)
        elif chosen:
            torch._foreach_copy_(own, new)


class WeightAverage:
    r"""Exponential moving average of weights, :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta`.

    In the first updates the decay is at most :math:`(1 + t)/(10 + t)`, so that the initial weights do not dominate the
    average of a short run. Buffers are copied.

    Arguments:
        network: The network to follow.
        decay: :math:`d`; 0 follows exactly.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        _check_decay(decay)
        self.network, self.decay, self.updates = network, decay, 0
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network's weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = [name for name, _ in self.network.named_parameters(remove_duplicate=False)]
        move_average(self.average, self.network.state_dict(), 1.0 - decay, parameters)
        self.updates += 1

    def apply(self) -> None:
        """Overwrite the network's weights with the average."""
        self.network.load_state_dict(self.average)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the network has the average, afterwards its own weights again."""
        own = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        try:
            self.apply()
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> StateTree:
        """The average and its count of updates."""
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self.updates = int(state["updates"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])

"""What a metric is given: the model, the data, samples that all metrics share, generators, a place for figures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

import genfw
from genfw.errors import ContractError
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import Canvas, is_image, save_figure, save_samples
from genfw.evaluation.results import Figure, Pairs
from genfw.interfaces.dataset import Dataset, Split
from genfw.interfaces.values import Batch
from genfw.models.chains import chain_protocol
from genfw.models.model import Model
from genfw.models.sampling import Samples, SampleSettings, count_batches, draw_batch, join_batches
from genfw.plugins.signature import summarise
from genfw.randomness import derive_seed

__all__ = ["Evaluation", "Workers"]

T = TypeVar("T")


class Workers(Protocol):
    """Processes that an evaluation deals its work out to; see :mod:`genfw.evaluation.pool`."""

    def draw(self, count: int, numbers: Sequence[int], seed: int) -> Iterator[Samples]:
        """Batches of samples, by number; see :meth:`Evaluation.sample_batches`."""

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """See :meth:`Evaluation.spread`."""


class Evaluation:
    """What a metric may use: the model, the data, samples that all metrics share, generators, a place for figures.

    Arguments:
        model: The model; held in eval mode with frozen parameters while metrics run.
        data: The data set, or ``None``.
        settings: How the model is sampled from.
        directory: The run directory; figures are written below it.
        device: Where the model's weights are.
        seed: Source of all randomness.
        smoke: Whether this is a smoke run, whose numbers mean nothing.
        paper: The recipe's ``paper:`` section.
        recipe: The resolved recipe as plain dicts and lists, where there is one; it says in full what objects say in
            part.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset | None = None,
        settings: SampleSettings | None = None,
        directory: Path | str = ".",
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        smoke: bool = False,
        paper: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.data = model, data
        self.settings = SampleSettings() if settings is None else settings
        self.directory = Path(directory)
        self.device = torch.device(device)
        self.seed, self.smoke = seed, smoke
        self.paper: Mapping[str, Any] = paper or {}
        self.recipe: Mapping[str, Any] = recipe or {}
        #: The processes that sampling and :meth:`spread` deal their work out to; ``None``: this one does all of it.
        self.workers: Workers | None = None
        #: Data and what a metric has made of them, under its name, for metrics after it that compare the two otherwise.
        self.pairs: dict[str, Pairs] = {}
        self._samples: dict[int, Samples] = {}

    def samples(self, count: int | None = None) -> Samples:
        """Draw from the model as its recipe says; asked for the same count again, the same samples.

        With several processes each draws its share, with the weights that the evaluation began with.

        Arguments:
            count: Samples; the recipe's ``sample.count`` where absent.
        """
        count = self.settings.count if count is None else count
        if count not in self._samples:
            began = time.perf_counter()
            batches = list(self.sample_batches(count))
            self._samples[count] = join_batches(batches, time.perf_counter() - began)
        return self._samples[count]

    def sample_batches(
        self, count: int, *, seed: int | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Samples]:
        """The samples of :meth:`samples` batch by batch, with no more than one batch of each process in memory.

        Arguments:
            count: Samples in all.
            seed: Source of all randomness; the one that all metrics share where absent.
            share: Number ``k`` and count ``n`` of shares: batches ``k``, ``k + n``, ... are drawn.
        """
        seed = derive_seed(self.seed, "evaluate") if seed is None else seed
        numbers = range(share[0], count_batches(self.settings, count), share[1])
        if self.workers is not None:
            yield from self.workers.draw(count, numbers, seed)
            return
        for number in numbers:
            yield draw_batch(self.model, self.settings, count, number, seed=seed, device=self.device)

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """Call a metric's method for every task, dealt out over the processes of the evaluation.

        In a further process ``self`` is the metric as the recipe describes it, and the first argument that process's
        own evaluation. What the method gives must depend on its task alone, whichever tasks came before: it takes its
        randomness from a generator named after the task, puts back the state of chains
        (:func:`~genfw.models.sampling.preserved`) and writes no files.

        Arguments:
            method: Bound method of a metric, called with an evaluation and a task's arguments. It gives numbers and
                tensors on the CPU.
            tasks: Arguments of each call: numbers, names, tensors on the CPU.

        Returns:
            What each call gave, in the order of the tasks.
        """
        if self.workers is not None:
            return self.workers.spread(method, tasks)
        return [method(self, *task) for task in tasks]

    def rows(self, split: str = "test", count: int | None = None) -> Batch:
        """Rows of the data set without augmentation, on the CPU.

        Arguments:
            split: ``train``, ``test``, ...
            count: Rows; all where absent or larger than the split, else a random subset that depends on ``count`` and
                the split alone, so that runs with other seeds are measured on the same rows.

        Raises:
            ContractError: The recipe has no data set.
        """
        rows, index = self.row_numbers(split, count)
        x, label = rows.get(index)
        # A run in double precision sets the default type for its length.
        return Batch(x.to(torch.get_default_dtype()), index, label)

    def row_numbers(self, split: str = "test", count: int | None = None) -> tuple[Split, Tensor]:
        """The split that :meth:`rows` reads, and the numbers of the rows it takes, for those who read bit by bit."""
        if self.data is None:
            raise ContractError("this metric compares with data, and the recipe has no 'data:' section")
        rows = self.data.split(split)
        index = torch.arange(len(rows))
        if count is not None and count < len(rows):
            generator = torch.Generator().manual_seed(derive_seed(0, "rows", split, count))
            index = torch.randperm(len(rows), generator=generator)[:count].sort().values
        return rows, index

    def generator(self, name: str) -> torch.Generator:
        """A fresh generator on the model's device; the same name gives the same stream."""
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, "evaluate", name))

    def protocol(self, *, samples: int | None = None, **extra: Any) -> dict[str, Any]:
        """What would change a number, as JSON scalars.

        Arguments:
            samples: Samples of :meth:`samples` that went into it; how they were drawn is then part of the protocol.
            extra: The metric's own settings and counts.
        """
        facts: dict[str, Any] = {}
        if samples is not None:
            facts |= {"samples": samples, **self._sampling()}
        facts |= extra
        if self.data is not None:
            facts["data"] = summarise(self.recipe.get("data") or self.data)
        facts |= {"seed": self.seed, "device": str(self.device)}
        facts |= {"genfw": genfw.__version__, "torch": str(torch.__version__)}
        if self.smoke:
            facts["smoke"] = True
        return {key: value for key, value in facts.items() if value is not None}

    def _sampling(self) -> dict[str, Any]:
        settings = self.settings
        written = self.recipe.get("sample") or {}
        facts = {"space": settings.space, **chain_protocol(settings.sampler, settings.starts, written)}
        facts["decoder"] = "mean" if settings.mean else "sample"
        facts["temperature"] = settings.temperature
        facts["sample_batch"] = settings.batch
        return facts

    def expected(self, name: str) -> float | None:
        """The paper's value of a result, from the recipe's ``paper.expect``; ``None`` where it gives none."""
        expect = self.paper.get("expect")
        value = expect.get(name) if isinstance(expect, Mapping) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def figure(
        self,
        name: str,
        title: str,
        caption: str,
        draw: Callable[[Canvas], None],
        *,
        size: tuple[float, float] = (6.4, 3.6),
    ) -> Figure:
        """Draw a picture into the run directory.

        Arguments:
            name: File name without ending; letters, digits, ``-`` and ``_``.
            title: Heading in the report.
            caption: What is seen, with units and value range.
            draw: Fills an empty matplotlib figure.
            size: Width and height in inches.
        """
        path = f"figures/{_checked(name)}.png"
        save_figure(self.directory / path, draw, size=size)
        return Figure(path, title, caption)

    def picture(
        self,
        name: str,
        title: str,
        caption: str,
        x: torch.Tensor,
        *,
        columns: int | None = None,
        folder: str = "figures",
    ) -> Figure:
        """Write data as a grid (images) or scatter (vectors); arguments as for :meth:`figure`.

        The caption also says which share of an image's values was cut.
        """
        path = f"{_checked(folder)}/{_checked(name)}.png"
        save_samples(self.directory / path, x, columns=columns, title=title)
        cut = Extent.of(x).say_beyond("these images", "and were cut") if is_image(tuple(x.shape[1:])) else ""
        return Figure(path, title, f"{caption} {cut}".strip())


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ContractError(f"a figure's name is made of letters, digits, '-' and '_', got '{name}'")
    return name

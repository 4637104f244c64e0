"""What a metric is given: the model, the data, samples shared by all metrics, generators, figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import genfw
from genfw.errors import ContractError, DivergenceError
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

T = TypeVar("T")


class Evaluation:
    """What a metric may use: the model, the data, samples shared by all metrics, generators, figures.

    Arguments:
        model: The model; in eval mode with frozen parameters while metrics run.
        data: The data set, or ``None``.
        settings: How the model is sampled from.
        directory: The run directory; figures are written below it.
        device: Where the model's weights are.
        seed: Source of all randomness.
        smoke: Whether this is a smoke run, whose numbers mean nothing.
        paper: The recipe's ``paper:`` section.
        recipe: The resolved recipe, if any, as plain dicts and lists; it is more complete than the objects.
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
        #: Data with a metric's reconstructions, under the metric's name, for later metrics that compare the two.
        self.pairs: dict[str, Pairs] = {}
        #: Label of the metric at work; its figures are called by it.
        self.label = ""
        #: What makes every number of the samples doubtful, by a word for it.
        self.doubts: dict[str, str] = {}
        self._samples: dict[int, Samples] = {}

    def samples(self, count: int | None = None) -> Samples:
        """Draw from the model as its recipe says; the same count gives the same samples again.

        With several processes each draws its share, with the weights at the start of the evaluation. Large tensors lie
        in a file of the run directory without a name: read them part by part, and they take no memory.

        Arguments:
            count: Count of samples; the recipe's ``sample.count`` by default.
        """
        count = self.settings.count if count is None else count
        if count not in self._samples:
            self._samples[count] = join_batches(self.sample_batches(count), count, self.directory / "cache")
        return self._samples[count]

    def sample_batches(
        self, count: int, *, seed: int | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Samples]:
        """The samples of :meth:`samples` batch by batch, with one batch of each process in memory.

        Arguments:
            count: Samples in all.
            seed: Source of all randomness; by default the seed shared by all metrics.
            share: Index ``k`` and count ``n`` of shares: batches ``k``, ``k + n``, ... are drawn.

        Raises:
            DivergenceError: Samples, or their potentials, are not finite.
        """
        seed = derive_seed(self.seed, "evaluate") if seed is None else seed
        indices = range(share[0], count_batches(self.settings, count), share[1])
        for batch in self.draws(count, indices, seed):
            self._judge(batch)
            yield batch

    def draws(self, count: int, indices: Sequence[int], seed: int) -> Iterator[Samples]:
        """Batches of :meth:`sample_batches` by their indices, whatever their numbers are."""
        for index in indices:
            yield draw_batch(self.model, self.settings, count, index, seed=seed, device=self.device)

    def _judge(self, batch: Samples) -> None:
        """Refuse samples that are no numbers, and note chains that stand still."""
        for what, values in (("potentials", batch.potential), ("samples", batch.x), ("positions", batch.position)):
            lost = int((~values.flatten(1 if values.ndim > 1 else 0).isfinite()).sum())
            if lost:
                advice = "" if self.settings.sampler is None else "; its chains diverge: take a smaller step_size"
                raise DivergenceError(
                    f"'sample:' gives {what} that are not finite ({lost:,} of {values.numel():,} values){advice}"
                )
        if batch.acceptance == 0.0:
            self.doubts["rejected"] = (
                "the sampler of 'sample:' rejected every move, so its samples are where its chains began; "
                "take a smaller step_size"
            )

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """Call a metric's method for every task, distributed over the processes of the evaluation.

        In another process ``self`` is the metric as built from the recipe, and the first argument its own evaluation.
        The result must depend only on the task, not on earlier ones: the method takes its randomness from a generator
        named after the task, restores the state of chains (:func:`~genfw.models.sampling.preserved`) and writes no
        files.

        Arguments:
            method: Bound method of a metric, called with an evaluation and a task's arguments. It returns numbers and
                tensors on the CPU.
            tasks: Arguments of each call: numbers, names, tensors on the CPU.

        Returns:
            The result of each call, in the order of the tasks.
        """
        return [method(self, *task) for task in tasks]

    def rows(self, split: str = "test", count: int | None = None) -> Batch:
        """Rows of the data set without augmentation, on the CPU.

        Arguments:
            split: ``train``, ``test``, ...
            count: Count of rows; all by default, or if it exceeds the split. Otherwise a random subset that depends
                only on ``count`` and the split, so that runs with other seeds are measured on the same rows.

        Raises:
            ContractError: The recipe has no data set.
        """
        rows, index = self.row_numbers(split, count)
        x, label = rows.get(index)
        # A run in double precision changes torch's default type.
        return Batch(x.to(torch.get_default_dtype()), index, label)

    def row_numbers(self, split: str = "test", count: int | None = None) -> tuple[Split, Tensor]:
        """The split and the row numbers of :meth:`rows`, for reading piece by piece."""
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
        """Everything that would change a number, as JSON scalars.

        Arguments:
            samples: Count of samples from :meth:`samples` that it uses, if any; adds how they were drawn.
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
        """The paper's value of a result, from the recipe's ``paper.expect``, or ``None``."""
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
        shows_data: bool = False,
    ) -> Figure:
        """Draw a picture into the run directory.

        Arguments:
            name: File name without ending; letters, digits, ``-`` and ``_``.
            title: Heading in the report.
            caption: What it shows, with units and value range.
            draw: Fills an empty matplotlib figure.
            size: Width and height in inches.
            shows_data: Whether rows of the data can be seen in it.
        """
        path = f"figures/{self._file(name)}.png"
        save_figure(self.directory / path, draw, size=size)
        return Figure(path, title, caption, shows_data)

    def _file(self, name: str) -> str:
        return _checked(f"{name}-{self.label}" if self.label else name)

    def picture(
        self,
        name: str,
        title: str,
        caption: str,
        x: torch.Tensor,
        *,
        columns: int | None = None,
        folder: str = "figures",
        shows_data: bool = False,
    ) -> Figure:
        """Write data as a grid (images) or scatter (vectors); arguments as for :meth:`figure`.

        The caption also says which share of an image's values was cut.
        """
        path = f"{_checked(folder)}/{self._file(name)}.png"
        save_samples(self.directory / path, x, columns=columns, title=title)
        cut = Extent.of(x).say_beyond("these images", "and were cut") if is_image(tuple(x.shape[1:])) else ""
        return Figure(path, title, f"{caption} {cut}".strip(), shows_data)


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ContractError(f"a figure's name is made of letters, digits, '-' and '_', got '{name}'")
    return name

"""Draw the three pictures of docs/energy-over-a-generator.md, and the one of the front page, from a trained quickstart.

genfw run quickstart --dir runs/quickstart
python docs/draw_energy.py runs/quickstart
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import genfw
from genfw_plugins.metrics.likelihood.density import Grid, draw_mixture

IMAGES = Path(__file__).parent / "images"
WINDOW = (-2.7, 2.7, -2.7, 2.7)
#: Suffix of the file -> colour of words and lines on that background.
THEMES = {"": "#222222", "-dark": "#dddddd"}


def densities(run: str | Path) -> tuple[Tensor, Tensor, Tensor]:
    """Density of the generator, energy, and density of both together, on a square grid, in closed form."""
    model = genfw.load_run(run).model
    grid = Grid(WINDOW, 401)
    with torch.no_grad():
        mixture = draw_mixture(model, 100_000, torch.Generator().manual_seed(0))
        generator = mixture.log_prob_on(grid, weighted=False)
        energy = torch.cat([model.data_energy(part) for part in grid.points().split(40_000)]).double()
    together = generator - energy
    together -= grid.log_integral(together)
    # The grid's second coordinate runs fastest, and a picture's rows are its second coordinate.
    return tuple(values.reshape(grid.size, grid.size).T for values in (generator.exp(), energy, together.exp()))


def draw(run: str | Path) -> None:
    """Write the pictures, each for a light and for a dark page."""
    generator, energy, together = densities(run)
    # The energy shows against its lowest value; where no generator's draw comes, its value means nothing.
    energy = torch.where(generator > 1e-6, energy - energy[generator > 1e-3].min(), torch.nan)
    panels = {
        "energy-1-generator": ("what the generator draws", generator, "Blues", None),
        "energy-2-energy": ("the energy: dark is high", energy, "Oranges", 8.0),
        "energy-3-together": ("what both together draw", together, "Blues", None),
    }
    for suffix, ink in THEMES.items():
        with plt.rc_context({"text.color": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink}):
            figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.95), layout="constrained")
            for axis, (title, values, colours, top) in zip(axes, panels.values(), strict=True):
                _panel(axis, title, values, colours, top, size=15)  # a phone shows it at a third of its width
            _save(figure, f"energy-over-generator{suffix}")
            for name, (title, values, colours, top) in panels.items():
                figure, axis = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
                image = _panel(axis, title, values, colours, top)
                bar = figure.colorbar(image, ax=axis, shrink=0.8)
                bar.set_label("nats" if top else "density", color=ink)
                _save(figure, f"{name}{suffix}")


def _panel(axis: plt.Axes, title: str, values: Tensor, colours: str, top: float | None, *, size: int = 12) -> object:
    axis.set_title(title, fontsize=size)
    axis.set(xticks=[], yticks=[])
    highest = float(values.nan_to_num().max()) if top is None else top
    return axis.imshow(values, extent=WINDOW, origin="lower", cmap=colours, vmin=0, vmax=highest)


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(IMAGES / f"{name}.png", dpi=90, transparent=True)
    plt.close(figure)


if __name__ == "__main__":
    draw(sys.argv[1])

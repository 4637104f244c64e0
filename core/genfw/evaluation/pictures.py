"""Drawing shared by metrics and report: one style, one fixed value range, no global state.

Figures use matplotlib's object interface on the Agg canvas. Nothing here needs ``pyplot``, a display, or a font that
matplotlib does not ship.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces.values import Size
from genfw.runs.files import naming

# Functions that draw import matplotlib; checking a recipe imports its metrics, which need only this annotation.
if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
else:
    Canvas = "matplotlib.figure.Figure"

__all__ = [
    "INK",
    "SERIES",
    "Canvas",
    "draw_samples_2d",
    "image_grid",
    "is_image",
    "save_figure",
    "save_samples",
    "to_bytes",
]

#: Colours that colour-blind readers can tell apart, and that print well (Okabe and Ito, 2008).
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#6b3fa0")
INK = "#24292f"

_STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.6,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "image.cmap": "magma",
}


def save_figure(
    path: Path, draw: Callable[[Canvas], None], *, size: tuple[float, float] = (6.4, 3.6), dpi: int = 160
) -> Path:
    """Draw a figure and write it as PNG.

    Arguments:
        path: The file; its folder is created.
        draw: Fills an empty matplotlib figure.
        size: Width and height in inches.
        dpi: Pixels per inch.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):  # type: ignore[arg-type,unused-ignore]  # newer matplotlib types the keys
        canvas = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        draw(canvas)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without metadata the same figure gives the same bytes on every machine with this matplotlib.
        with naming(path):
            canvas.savefig(path, dpi=dpi, metadata={"Software": None})
    return path


def is_image(shape: Size) -> bool:
    """Whether items of this shape, without batch, can be shown as pictures: 1 or 3 channels, height, width."""
    return len(shape) == 3 and shape[0] in (1, 3)


def to_bytes(x: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images in [-1, 1], with shape ``(..., C, H, W)``, as bytes ``(..., H, W, 3)``.

    The range is fixed, so that you can compare grids of two runs: -1 is black and 1 is white in every image, and other
    values are clipped.
    """
    if x.ndim < 3 or not is_image(tuple(x.shape[-3:])):
        raise ContractError(f"images have shape (..., 1 or 3, H, W), got {tuple(x.shape)}")
    scaled = x.detach().cpu().double().nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0).add(1.0).mul(127.5)
    array = scaled.round().clamp(0, 255).movedim(-3, -1).numpy().astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def image_grid(x: Tensor, columns: int | None = None, *, gap: int = 2) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Tile images into one picture, enlarged by whole pixels until a tile is at least 48 wide.

    Arguments:
        x: Images in [-1, 1], with shape ``(N, C, H, W)``.
        columns: Tiles per row; about square where absent.
        gap: Pixels between tiles.

    Returns:
        Bytes, with shape ``(height, width, 3)``.
    """
    tiles = to_bytes(x)
    count, height, width = tiles.shape[:3]
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    scale = max(1, math.ceil(48 / width))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def draw_samples_2d(
    axes: Any, x: Tensor, title: str, *, window: Sequence[float] | None = None, colour: str = SERIES[0]
) -> None:
    """Scatter points ``(N, 2 or more)`` by their first two coordinates, on equal axes."""
    points = x.detach().cpu().flatten(1)[:, :2].double().numpy()
    size = float(np.clip(6000 / max(len(points), 1), 0.6, 40))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=0.5, linewidths=0, rasterized=True)
    axes.set(title=title, aspect="equal")
    if window is not None:
        axes.set(xlim=window[:2], ylim=window[2:])


def save_samples(path: Path, x: Tensor, *, columns: int | None = None, title: str = "") -> Path:
    """Write samples as one PNG: a grid for images, a scatter of the first two coordinates for vectors.

    Arguments:
        path: The file; its folder is created.
        x: Samples, with shape ``(N, *)``; images in [-1, 1].
        columns: Tiles per row of a grid.
        title: Heading of a scatter.
    """
    shape = tuple(x.shape[1:])
    if is_image(shape):
        path.parent.mkdir(parents=True, exist_ok=True)
        from matplotlib.image import imsave

        imsave(path, image_grid(x, columns), dpi=96)
        return path
    if math.prod(shape) < 2:
        return save_figure(path, lambda canvas: _draw_histogram(canvas, x, title))
    return save_figure(path, lambda canvas: draw_samples_2d(canvas.subplots(), x, title), size=(4.8, 4.8))


def _draw_histogram(canvas: Canvas, x: Tensor, title: str) -> None:
    axes = canvas.subplots()
    axes.hist(x.detach().cpu().flatten().double().numpy(), bins=80, color=SERIES[0], density=True)
    axes.set(title=title, xlabel="x", ylabel="density")

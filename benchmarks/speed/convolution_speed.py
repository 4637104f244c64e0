"""The convolutions of the chains, each way that a plugin has for them beside torch's own.

    OMP_NUM_THREADS=1 python benchmarks/speed/convolution_speed.py [--batch 4]

A row is one layer of DAMC's CIFAR-10 decoder or of VAEBM's energy, forward and back. The way in the column "genfw" is
named in the first column; an asterisk marks the one that the fixed rule takes. ``engine.tune`` takes the fastest.
"""

from __future__ import annotations

import argparse

import torch
from _ratios import Row, interleaved, row, table
from torch import Tensor

from genfw.nn import choices
from genfw.nn.manual_grad import ByHand
from genfw_plugins.dcgan import for_chain as decoder
from genfw_plugins.resnet_energy import for_chain as energy

#: Channels in, channels out and side of the decoder's doubling layers, and of the energy's convolutions.
DOUBLING = ((1024, 512, 8), (512, 256, 16), (512, 256, 4), (256, 128, 8), (128, 3, 16))
SAME = ((128, 128, 32), (128, 128, 16), (256, 256, 8))


class Listed(choices.Choices):
    """Times every way of a piece of work, and keeps the rows."""

    def __init__(self, repeats: int) -> None:
        super().__init__()
        self.repeats, self.rows = repeats, list[Row]()

    def way(self, work: str, ways: dict[str, choices.Callable[[], ByHand]], rule: str, h: Tensor) -> str:  # type: ignore[override]
        """Time the ways; the plain one goes on."""
        made = {name: make() for name, make in ways.items()}

        def both(function: ByHand) -> Tensor:
            out, pullback = function(h)
            return out + pullback(torch.ones_like(out)).sum()

        seconds = dict(zip(made, interleaved([lambda each=each: both(each) for each in made.values()], self.repeats),
                           strict=True))  # fmt: skip
        expected = both(made["plain"])
        for name in made.keys() - {"plain"}:
            apart = float((both(made[name]) - expected).abs().max() / expected.abs().max())
            what = f"{work}: {name}{'*' if name == rule else ''}"
            self.rows.append(row(what, "x".join(map(str, h.shape)), seconds["plain"], seconds[name], apart))
        return "plain"


def main() -> None:
    """Time the layers, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    listed = Listed(arguments.repeats)
    with choices.choosing(listed), torch.no_grad():
        for inputs, outputs, side in DOUBLING:
            layer = torch.nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            decoder._convolve(layer, side, torch.float32)(torch.randn(arguments.batch, side, side, inputs))
        for inputs, outputs, side in SAME:
            kernel = torch.randn(outputs, inputs, 3, 3) / 30
            energy._convolution(kernel, None, (side, side))(torch.randn(arguments.batch, side, side, inputs))
    table(listed.rows)


if __name__ == "__main__":
    main()

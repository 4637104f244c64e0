"""What bfloat16 in chains does to the potential of trained models.

    python benchmarks/speed/rounding.py [MODEL ...]

MODEL is a shipped model or the folder of a run. There is one row for each part that ``chain_precision`` rounds, and
one for all of them. It says how far the gradient is off (norm of the difference over the norm), and how far the
potential is: its mean over positions, which moves no chain, and its scatter about that mean, beside the deviation of
the potential itself over the same positions. Positions are noise for a target over all noise; for a posterior they
lie near the noise of a sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from _models import rounded
from torch import Tensor

import genfw
from genfw.interfaces import Target
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import NoiseTarget, PosteriorTarget

SHIPPED = ("vaebm-fashion", "vaebm-mnist", "damc-fashion", "damc-celeba32")
HEAD = "| model | rounded | gradient off by | potential, mean (nats) | its scatter | deviation of the potential |"


def in_a_chain(target: Target, position: Tensor, parts: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Value and gradient as a chain sees them, with these parts in bfloat16."""
    with rounded("bf16", *parts), frozen_for_chain(*target.modules()):
        return target.tilt_and_grad(position)


def chained(model: Model, count: int) -> tuple[Target, Tensor]:
    """The target of the model's chains, and positions."""
    generator = torch.Generator().manual_seed(0)
    if any(energy.on == "data" for energy in model.energies):
        return NoiseTarget(model), model.noise_layout.draw(count, generator=generator)
    noise = model.latent_layout.draw(count, generator=generator)
    with torch.no_grad():
        x = model.likelihood(model.latent(noise)).mean
    return PosteriorTarget(model, x), noise + 0.1 * torch.randn(noise.shape, generator=generator)


def main() -> None:
    """Compare the models, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=SHIPPED, metavar="MODEL")
    parser.add_argument("--count", type=int, default=32)
    arguments = parser.parse_args()
    print(HEAD + "\n| --- | --- | --- | --- | --- | --- |")
    for name in arguments.models:
        model = genfw.load(name).model
        target, position = chained(model, arguments.count)
        named: dict[str, Any] = {"prior": model.prior, "decoder": model.decoder, "energy": model.energies[0]}
        parts = {what: part for what, part in named.items() if hasattr(part, "chain_precision")}
        value, gradient = in_a_chain(target, position, ())
        whole = {"all": list(parts.values())} if len(parts) > 1 else {}
        for what, low in {**{what: [part] for what, part in parts.items()}, **whole}.items():
            half, bent = in_a_chain(target, position, low)
            off, apart = float((bent - gradient).norm() / gradient.norm()), half - value
            print(f"| {name} | {what} | {off:.1%} | {apart.mean():.2f} | {apart.std():.2f} | {value.std():.2f} |")


if __name__ == "__main__":
    main()

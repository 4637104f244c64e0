"""What genfw's training costs beside a bare loop, and NVAE's training step beside the same step written down.

    OMP_NUM_THREADS=1 python benchmarks/speed/training_speed.py overhead nvae

``overhead`` trains a VAE of two layers with 32 units on 2-d points, where nearly all time is Python's: a loop written
down, the stage alone, and a run with its engine. ``nvae`` trains VAEBM's NVAE, which ``nvae_plain.py`` writes down; it
stops if the two find another loss or gradient. Where the processor multiplies in bfloat16, genfw trains in bf16-mixed
too.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import math
import tempfile
from collections.abc import Callable

import torch
from _models import ready
from _ratios import Row, agree, interleaved, precisions, row, table
from nvae_plain import Iteration
from torch import Tensor, nn

from genfw import run
from genfw.interfaces.values import Batch
from genfw.models.model import Model
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.nvae.decoder import NVAEDecoder
from genfw_plugins.nvae.encoder import NVAEEncoder
from genfw_plugins.nvae.prior import NVAEPrior
from genfw_plugins.training.elbo import ELBO
from genfw_plugins.training.optimizers import Adam, Adamax

#: NVAE's optimiser and the weights of its bound.
ADAMAX = {"lr": 1e-2, "eps": 1e-3, "weight_decay": 3e-4}
BOUND = {"kl_start": 1e-4, "kl_warmup": 10**5, "penalty": 1e-2}
BATCH, HIDDEN, SIGMA = 64, (32, 32), 0.1
X = torch.randn(4096, 2, generator=torch.Generator().manual_seed(2))


def rows_of(number: int) -> Tensor:
    """The batch of a step."""
    first = number * BATCH % len(X)
    return X[first : first + BATCH]


def bare() -> Callable[[], None]:
    """A step of the same VAE, written down."""
    encoder = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 8))
    decoder = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    count = itertools.count()

    def step() -> None:
        x = rows_of(next(count))
        mean, log_scale = encoder(x).chunk(2, 1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        error = (0.5 * ((decoder(z) - x) / SIGMA).square() + math.log(SIGMA) + 0.5 * math.log(2 * math.pi)).sum(1)
        kl = (0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale).sum(1)
        optimizer.zero_grad(set_to_none=True)
        (error + kl).mean().backward()
        optimizer.step()

    return step


def staged() -> Callable[[], None]:
    """A step of genfw's stage."""
    prior = StandardNormal(4)
    decoder = MLPDecoder((2,), Model(prior).latent_layout, hidden=HIDDEN)
    model = Model(prior, decoder, encoder=MLPEncoder(prior, (2,), hidden=HIDDEN))
    stage = ready(ELBO(model=model, steps=10**6, batch=BATCH, optimizer=Adam(lr=1e-3)))
    count, index = itertools.count(), torch.arange(BATCH)

    def step() -> None:
        number = next(count)
        stage.step(Batch(rows_of(number), index), number)

    return step


def whole(steps: int) -> None:
    """A run of that many steps."""
    network = {"use": "mlp", "hidden": list(HIDDEN)}
    recipe = {
        "genfw": 1,
        "name": "tiny",
        "description": "tiny",
        "data": {"use": "gaussian-grid"},
        "prior": {"use": "standard-normal", "dim": 4},
        "decoder": network,
        "encoder": network,
        "train": [{"use": "elbo", "steps": steps, "batch": BATCH, "optimizer": {"use": "adam", "lr": 1e-3}}],
        "sample": {"count": 4},
        "engine": {"threads": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        run(recipe, root=folder)


def overhead(arguments: argparse.Namespace) -> list[Row]:
    """A bare loop beside the stage, and beside what a thousand more steps add to a run."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    one, other = bare(), staged()
    loops = interleaved([lambda: [one() for _ in range(100)], lambda: [other() for _ in range(100)]], 9)
    few, many, written = interleaved(
        [lambda: whole(100), lambda: whole(1100), lambda: [one() for _ in range(1000)]], arguments.repeats
    )
    added = [long - short for long, short in zip(many, few, strict=True)]
    return [
        row("tiny ELBO: stage, plain is a bare loop", "batch 64, 100 steps", *loops),
        row("tiny ELBO: run, plain is a bare loop", "batch 64, 1,000 steps", written, added),
    ]


def nvae_stage(model: Model, batch: int, precision: str = "32-true") -> ELBO:
    """The stage that trains an NVAE."""
    stage = ELBO(model=model, steps=10**6, batch=batch, optimizer=Adamax(**ADAMAX), balance=True, **BOUND)
    return ready(stage, precision)


def nvae_pair(batch: int, channels: int = 32, groups: int = 8, side: int = 32) -> tuple[Iteration, ELBO, Tensor]:
    """The step written down and genfw's stage, from the same weights, with the same noise; and images."""
    torch.manual_seed(0)
    prior = NVAEPrior((3, side, side), channels=channels, scales=1, groups=groups)
    model = Model(prior, NVAEDecoder(prior), encoder=NVAEEncoder(prior, channels=channels, flows=1))
    for part in (model.prior, model.decoder, model.encoder):
        assert part is not None  # all three were just given
        part.penalty()  # its power iterations begin with more of them
    twin = copy.deepcopy(model)
    plain = Iteration(twin, torch.Generator().manual_seed(1), ADAMAX, **BOUND)
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return plain, nvae_stage(model, batch), x


def nvae(arguments: argparse.Namespace) -> list[Row]:
    """NVAE's step beside the same step written down, and in bf16-mixed where the processor multiplies in bfloat16."""
    plain, stage, x = nvae_pair(arguments.batch)
    rows, count = Batch(x, torch.arange(len(x))), itertools.count()
    listed, report = torch.stack(plain(x, 0)), stage.step(rows, next(count))
    ours = torch.stack([report["loss"], report["gradient"]])
    apart = agree("NVAE's loss and the norm of its gradient, over those", ours / listed, torch.ones(2), 1e-4)
    ways = [lambda: plain(x, 1), lambda: stage.step(rows, next(count))]
    if "bf16" in precisions():
        mixed = nvae_stage(copy.deepcopy(stage.model), len(x), "bf16-mixed")
        ways.append(lambda: mixed.step(rows, next(count)))
    written, *times = interleaved(ways, arguments.repeats)
    sizes = f"batch {len(x)}, 32 channels x 8 groups, one flow"
    made = [row("NVAE training", sizes, written, times[0], apart)]
    if len(times) > 1:
        made += [
            row("NVAE training in bf16-mixed, plain is fp32", sizes, written, times[1]),
            row("the same, plain is genfw in fp32", sizes, times[0], times[1]),
        ]
    return made


PARTS = {"overhead": overhead, "nvae": nvae}


def main() -> None:
    """Time what is asked for, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--batch", type=int, default=16, help="of NVAE's step")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    table([each for part in arguments.parts for each in PARTS[part](arguments)])


if __name__ == "__main__":
    main()

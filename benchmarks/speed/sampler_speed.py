"""Effective draws per second of HMC and MALA on a correlated normal law, beside blackjax where it is installed.

    OMP_NUM_THREADS=1 python benchmarks/speed/sampler_speed.py [--size 10] [--chains 100]

All take the same step size and the same number of leapfrog steps. genfw runs step by step, and compiled
(``engine.compile``); blackjax is compiled by XLA. First calls, which compile, do not count. Times are processor
seconds; the count is the least over the coordinates, by rank-normalised bulk ESS.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import torch
from _ratios import machine
from torch import Tensor

from genfw.models.chains import run_chain
from genfw.models.compiling import CompiledChains, compiled
from genfw.models.targets import FunctionTarget
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.metrics.chains.convergence import ess_bulk

#: Step sizes, and the leapfrog steps of HMC.
HMC_STEP, LEAPFROG, MALA_STEP = 0.3, 10, 0.03

Chain = Callable[[], Tensor]


def precision_of(size: int) -> Tensor:
    """Inverse covariance of a normal law with unit variances and correlation 0.9 to the power of the distance."""
    index = torch.arange(size)
    return torch.linalg.inv(0.9 ** (index[:, None] - index).abs().double()).float()


def ours(precision: Tensor, start: Tensor, steps: int, chains: CompiledChains | None) -> dict[str, Chain]:
    """genfw's kernels, over a potential that is a function."""
    beyond_base = precision - torch.eye(len(precision))
    target = FunctionTarget(len(precision), lambda x, matrix: 0.5 * ((x @ matrix) * x).sum(1), (beyond_base,))
    kernels = {
        "HMC": HMC(step_size=HMC_STEP, leapfrog_steps=LEAPFROG, steps=steps, jitter=0.0, adapt=False),
        "MALA": MALA(step_size=MALA_STEP, steps=steps, adapt=False),
    }

    def chain(kernel: HMC | MALA) -> Tensor:
        source = torch.Generator().manual_seed(2)
        with compiled(chains):
            return run_chain(target, kernel, start, generator=source, keep_every=1).trace

    return {name: lambda kernel=kernel: chain(kernel) for name, kernel in kernels.items()}


def theirs(precision: Tensor, start: Tensor, steps: int) -> dict[str, Chain]:
    """blackjax's kernels, compiled; none where it is not installed."""
    try:
        import blackjax
        import jax
        import jax.numpy as jnp
        import numpy as np
    except ImportError:
        return {}
    matrix, begin = jnp.array(precision.numpy()), jnp.array(start.numpy())

    def log_density(x: jax.Array) -> jax.Array:
        return -0.5 * (x @ matrix) @ x

    kernels = {
        "HMC": blackjax.hmc(log_density, HMC_STEP, jnp.ones(len(matrix)), LEAPFROG),
        "MALA": blackjax.mala(log_density, MALA_STEP),
    }

    def compiled(kernel: blackjax.SamplingAlgorithm) -> Chain:
        @jax.jit
        def chain(key: jax.Array, x: jax.Array) -> jax.Array:
            def step(state: object, each: jax.Array) -> tuple[object, jax.Array]:
                state, _ = jax.vmap(kernel.step)(jax.random.split(each, len(x)), state)
                return state, state.position

            return jax.lax.scan(step, jax.vmap(kernel.init)(x), jax.random.split(key, steps))[1]

        return lambda: torch.tensor(np.asarray(chain(jax.random.key(1), begin)))

    return {name: compiled(kernel) for name, kernel in kernels.items()}


def main() -> None:
    """Time both kernels of both programs in turn, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 10), ("chains", 100), ("steps", 400), ("burn", 100), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    precision = precision_of(given.size)
    start = 0.5 * torch.randn(given.chains, given.size, generator=torch.Generator().manual_seed(1))
    head = "| kernel | program | effective draws a second | microseconds a step |\n| --- | --- | --- | --- |"
    print(f"{machine()}\n\n{head}")
    given_to_all = precision, start, given.steps
    programs = {
        "genfw": ours(*given_to_all, None),
        "genfw, compiled": ours(*given_to_all, CompiledChains()),
        "blackjax": theirs(*given_to_all),
    }
    for kernel in ("HMC", "MALA"):
        for program, chains in programs.items():
            if kernel not in chains:
                print(f"| {kernel} | {program} | not installed | |")
                continue
            trace, seconds = chains[kernel](), []
            for _ in range(given.repeats):
                began = time.process_time()
                chains[kernel]()
                seconds.append(time.process_time() - began)
            each = statistics.median(seconds) / given.steps
            effective = float(ess_bulk(trace[given.burn :]).min()) / (given.steps - given.burn)
            print(f"| {kernel} | {program} | {effective / each:,.0f} | {1e6 * each:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

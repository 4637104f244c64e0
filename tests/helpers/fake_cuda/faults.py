"""Faults planted in chains on the pretended device: ``python -m fake_cuda.faults`` prints what was found of each.

Each is a tilt of a two-dimensional target that does one thing wrong; ``none`` does nothing wrong.
"""

from __future__ import annotations

import json

from fake_cuda import findings
from fake_cuda.start import start

#: Faults by name, with how each must be found: the host waits within the chain, or an operation raises.
FAULTS = {
    "none": "",
    "reads a number": "wait",
    "decides by a value": "wait",
    "copies to the host": "wait",
    "selects by a mask": "wait",
    "asks where values are": "wait",
    "uploads a constant": "wait",
    "indexes by rows on the host": "wait",
    "has a weight on the host": "error",
    "draws noise on the host": "error",
    "draws by the host's generator": "error",
    "looks up in a table on the host": "error",
    "scores by a compiled-in matrix": "error",
}


def found(name: str) -> str:
    """Run a chain with one fault; ``wait``, ``error``, or nothing."""
    import torch

    from fake_cuda.tensors import pretending
    from genfw.models.chains import run_chain
    from genfw.models.targets import FunctionTarget
    from genfw_plugins.mcmc.langevin import Langevin

    host, rows = torch.Generator().manual_seed(0), torch.tensor([1, 0, 2])
    weight, table = torch.ones(2), torch.ones(3)

    def tilt(v: torch.Tensor) -> torch.Tensor:
        energy = v.square().sum(1)
        with torch.no_grad():
            match name:
                case "reads a number":
                    energy = energy * energy.mean().item()
                case "decides by a value":
                    energy = -energy if energy.mean() > 1e9 else energy
                case "copies to the host":
                    energy.cpu()
                case "selects by a mask":
                    energy[energy > 0]
                case "asks where values are":
                    energy.nonzero()
                case "uploads a constant":
                    energy = energy * torch.tensor(2.0, device=v.device)
                case "indexes by rows on the host":
                    energy = energy[rows]
                case "has a weight on the host":
                    energy = (v * weight).sum(1)
                case "draws noise on the host":
                    energy = energy + torch.randn(3)
                case "draws by the host's generator":
                    energy = energy + torch.randn(3, device=v.device, generator=host)
                case "looks up in a table on the host":
                    energy = energy + table[energy.argsort()]
                case "scores by a compiled-in matrix":
                    energy = energy + (v @ torch.eye(2)).sum(1)
        return energy + v.sum(1)

    findings.clear()
    try:
        with pretending():
            generator = torch.Generator("cuda").manual_seed(0)
            position = torch.randn(3, 2, device="cuda", generator=generator)
            run_chain(FunctionTarget(2, tilt), Langevin(step_size=0.1, steps=2), position, generator=generator)
    except RuntimeError:
        return "error"
    return "wait" if any(wait.place == "chain" for wait in findings.waits) else ""


if __name__ == "__main__":
    start()
    print(json.dumps({name: found(name) for name in FAULTS}))

"""Recipes on a pretended CUDA device: tensors stay on it, and inside a chain the host never waits for it.

By default planted faults alone; ``-m slow`` runs recipes that name each component, in fp32 and bf16-mixed.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict

import pytest

from component_names import named_components
from fake_cuda.faults import FAULTS
from fake_cuda.start import unavailable
from genfw.recipes.find import shipped_names
from genfw.recipes.recipe import load_recipe
from places import ROOT

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

FOLDER = ROOT / "recipes"
#: Cheap recipes that together name nearly every component that a shipped recipe names.
CHOSEN = [
    "lebm-digits",
    "2s-vae-cifar10", "2s-vae-svhn", "abp-celeba64", "abp-celebahq256", "adaptive-ce-celeba64", "damc-fashion",
    "damc-pinwheel-paper", "ebm-on-x-cifar10-ablation", "inversion-mnist-encoder", "lebm-digits-fidelity",
    "lebm-mnist-anomaly", "ncp-vae-celeba64", "nvae-mnist-mixture", "rae-celeba64", "vaebm-25gaussians-langevin",
    "vaebm-celebahq256", "vaebm-celebahq256-cold", "vaebm-cifar10", "vaebm-fashion", "vaebm-lsun64", "vaebm-mnist",
    "vaebm-stacked-mnist-small", "wgan-cifar10-ablation",
]  # fmt: skip


def every_component():
    """Those chosen, and any shipped recipe that names a component which none before it names."""
    seen = set().union(*(named_components(load_recipe(name, search=[FOLDER]).plain()) for name in CHOSEN))
    found = list(CHOSEN)
    for name in shipped_names([FOLDER]):
        named = named_components(load_recipe(name, search=[FOLDER]).plain())
        if named - seen:
            found.append(name)
            seen |= named
    return found


#: Files that may wait in a training step, outside of its chains: each says so, and why.
MAY_WAIT = {
    "genfw/nn/spectral.py": "once, to learn whether its vectors are warm",
    "genfw_plugins/ddpm/amortizer.py": "once for a device, to give it the ratios of a draw",
    "mcmc/starts/mixture.py": "for the rows that each start is given",
    "mcmc/starts/warm.py": "for the largest row number, where the recipe does not say it",
}


def call(module, *arguments, folder, timeout=900):
    """Run a module of the pretended device in a process of its own, without data sets; its lines of JSON."""
    paths = [str(ROOT / part) for part in ("core", "plugins", "cli", "tests/helpers")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "GENFW_DATA": str(folder / "nothing"),
        "HOME": str(folder),
    }
    command = [sys.executable, "-m", f"fake_cuda.{module}", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(outcome):
    assert outcome["status"] == "finished", f"{outcome.get('error')} at {outcome.get('at')}"
    assert outcome["failed"] == {}
    assert outcome["launches"]["step"] > 0
    waits = {(place, operation, line) for operation, line, place, _ in outcome["waits"]}
    assert {wait for wait in waits if wait[0] in ("chain", "batch")} == set()
    in_steps = {wait for wait in waits if wait[0] == "step"}
    assert {wait for wait in in_steps if wait[2].rpartition(":")[0] not in MAY_WAIT} == set()


def test_every_planted_fault_is_found_and_nothing_else(tmp_path):
    (found,) = call("faults", folder=tmp_path)
    assert found == FAULTS


ALL = every_component()
PRECISIONS = ["32-true", "bf16-mixed"]


@pytest.fixture(scope="module", params=PRECISIONS)
def outcomes(request, tmp_path_factory):
    """What was found in each recipe: all that are run alike in one process, since a start takes longer than most."""
    common = ["--set", f"engine.precision={request.param}"]
    if request.param != "32-true":  # metrics run outside of autocast, the same in either
        common += ["--unset", "evaluate"]
    alike = defaultdict(list)
    for name in ALL:
        alike[tuple(smaller(name))].append(name)
    folder = tmp_path_factory.mktemp("runs")
    lines = [
        line
        for settings, names in alike.items()
        for line in call("recipes", folder / "runs", *names, *common, *settings, folder=folder, timeout=7200)
    ]
    return {line["recipe"]: line for line in lines}


def smaller(recipe):
    """Settings by which an NVAE has the same layers, fewer of them, on images of 64 pixels at most."""
    plain = load_recipe(recipe, search=[FOLDER]).plain()
    if plain.get("prior", {}).get("use") == "nvae":
        yield from ("--set", "prior.groups=2")
        if plain["data"].get("size", 0) > 64:
            yield from ("--set", "data.size=64")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ALL)
def test_each_component_runs_in_either_precision(recipe, outcomes):
    check(outcomes[recipe])

"""`genfw import`: published files made from reference weights, whole; kinds from any plugin; refusals."""

import argparse
import json
import os

import pytest
import torch
from safetensors import safe_open

from genfw.recipes.compose import compose
from genfw.weights.load import load_into
from genfw_plugins.resnet_energy.energy import ResNetEnergy
from places import GOLDEN, SHARED

COMPANY = SHARED / "cases" / "energy-with-company.pth"

PLUGIN = """
    from genfw.plugins.component import Importer
    from genfw.plugins.hookspecs import hookimpl

    @hookimpl
    def genfw_importers():
        return [Importer("plain-energy", "toys:read", "weights that are named as ours", "https://example.org")]

    def read(tensors, arguments):
        from genfw.weights.importing import Conversion
        return Conversion({f"energy.{name}": tensors[name] for name in tensors}, {"energy": {"use": "mlp"}})
"""


def golden(name):
    """One published model's values, or none where they are not at hand."""
    path = GOLDEN / f"{name}.safetensors"
    if not path.is_file():
        return []
    with safe_open(path, "pt") as file:
        return [{key: file.get_tensor(key) for key in file.keys()}]  # noqa: SIM118


def part(values, prefix):
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


class Shell:
    def __reduce__(self):
        return os.system, ("touch witness",)


@pytest.mark.parametrize("values", golden("vaebm-energy-cifar10"), ids=["golden"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_energy_of_vaebm(call, tmp_path, values, zipped):
    weights = part(values, "state_dict.")
    optimizer = torch.optim.Adam([torch.nn.Parameter(weights["conv1.bias"].clone())])
    file = {"model": weights, "optimizer": optimizer.state_dict()}
    torch.save(file, tmp_path / "EBM_17.pth", _use_new_zipfile_serialization=zipped)
    called = call("import", "vaebm-energy", "EBM_17.pth")
    assert (called.code, called.rows) == (0, [[str(tmp_path / "vaebm-energy-EBM_17.safetensors")]])
    assert "card: vaebm-energy-EBM_17.json" in called.err
    card = json.loads((tmp_path / "vaebm-energy-EBM_17.json").read_text())
    block = card["architecture"]["energy"]
    assert block.pop("use") == "resnet"
    energy = ResNetEnergy((3, 32, 32), **block).eval()
    kept = load_into(energy, "vaebm-energy-EBM_17.safetensors")
    assert all(name.startswith("energy.spectral.") for name in kept)
    assert bool(energy.initialised)
    torch.testing.assert_close(energy(2 * values["x"] - 1), values["energy"], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not COMPANY.is_file(), reason="the case is not at hand")
def test_an_energy_with_company(call, tmp_path):
    called = call("import", "vaebm-energy", str(COMPANY))
    assert called.code == 0, called.err
    card = json.loads((tmp_path / "vaebm-energy-energy-with-company.json").read_text())
    energy = ResNetEnergy((3, 32, 32), **{k: v for k, v in card["architecture"]["energy"].items() if k != "use"})
    load_into(energy, called.rows[0][0])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_one_of_several_networks_is_picked(call, tmp_path, zipped):
    torch.manual_seed(0)
    energy = {"conv1.log_weight_norm": torch.randn(16), "linear.weight": torch.randn(1, 128)}
    [weights] = [part(values, "state_dict.") for values in golden("vaebm-energy-cifar10")] or [energy]
    average = {name: value + 1 for name, value in weights.items()}
    file = {"model": weights, "ema": average, "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])}
    torch.save(file, tmp_path / "both.pth", _use_new_zipfile_serialization=zipped)
    called = call("import", "vaebm-energy", "both.pth")
    assert (called.code, called.out) == (1, "")
    assert "one energy was expected, the file has 2; choose one by --pick: model, ema" in called.err
    called = call("import", "vaebm-energy", "both.pth", "--pick", "emma")
    assert (called.code, called.out) == (1, "")
    assert "choose one by --pick: model, ema" in called.err
    if weights is energy:
        pytest.skip("the reference weights are not at hand")
    for name, values in (("model", weights), ("ema", average)):
        called = call("import", "vaebm-energy", "both.pth", "--pick", name, "--out", f"{name}.safetensors")
        assert called.code == 0, called.err
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as opened:
            assert torch.equal(opened.get_tensor("energy.stem.bias"), values["conv1.bias"])


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("nvae-*.safetensors")), ids=lambda path: path.stem)
def test_nvae(call, tmp_path, path):
    [values] = golden(path.stem)
    with safe_open(path, "pt") as file:
        args = json.loads(file.metadata()["args"])
    weights = part(values, "state_dict.")
    record = argparse.Namespace(**args)
    torch.save({"epoch": 3, "state_dict": weights, "args": record, "arch_instance": {"a": ["b"]}}, "checkpoint.pt")
    called = call("import", "nvae", "checkpoint.pt", "--json")
    assert called.code == 0, called.err
    content = json.loads(called.out)["content"]
    assert all(name.endswith(".weight_normalized") for name in content["unused"])  # copies that layers keep
    assert content["arguments"] == args
    recipe = {"genfw": 1, "name": "imported", "data": {"use": "cifar10"}, **content["architecture"]}
    model = compose(recipe, smoke=False).model.eval()
    assert all(".weight_penalty." in name for name in load_into(model, "nvae-checkpoint.safetensors"))
    noise = torch.cat([values[f"sample.eps.{i}"].flatten(1) for i in range(len(model.latent_layout.groups))], dim=1)
    with torch.no_grad():
        latent = model.latent(noise)
    torch.testing.assert_close(latent.groups[-1], values[f"sample.z.{len(latent.groups) - 1}"], rtol=1e-4, atol=1e-4)


def test_nvae_without_its_record(call, tmp_path):
    torch.save({"state_dict": {"prior_ftr0": torch.ones(1)}}, tmp_path / "a.pt")
    called = call("import", "nvae", "a.pt")
    assert (called.code, called.out) == (1, "")
    assert "the checkpoint's argument record has no 'num_preprocess_blocks'" in called.err


def test_kinds_are_listed(call):
    kinds = [[row[0], row[-1]] for row in call("import").rows]
    assert ["nvae", "genfw 0.1.0"] in kinds
    assert ["vaebm-energy", "genfw 0.1.0"] in kinds
    listed = json.loads(call("import", "--json").out)
    assert "https://github.com/NVlabs/VAEBM" in [one["reference"] for one in listed]


def test_a_plugin_brings_a_kind(call, distribution, tmp_path):
    distribution("genfw-toys", "toys", PLUGIN)
    torch.save({"w": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "a.pth")
    called = call("import", "genfw-toys/plain-energy", "a.pth", "--out", "here.safetensors", "--json")
    assert called.code == 0
    done = json.loads(called.out)
    assert done["weights"] == "here.safetensors"
    assert done["content"]["importers"] == ["genfw-toys/plain-energy 0.3 (toys:read)"]
    assert (tmp_path / "here.json").is_file()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("['vaebm']", "genfw_importers returns genfw.plugins.component.Importer objects"),
        ("[Importer('A', 'x:y', '')]", "an importer's name is not well formed: 'A'"),
    ],
)
def test_a_broken_importer_costs_its_plugin_alone(call, distribution, returned, message):
    module = f"toys_{len(message)}"  # a module that no test before has imported
    distribution("genfw-toys", module, PLUGIN.split("return [", 1)[0] + f"return {returned}\n")
    called = call("import")
    assert called.code == 0
    assert "genfw-toys" in called.err
    assert message in called.err


def test_two_distributions_may_offer_one_kind(call, distribution, tmp_path):
    (tmp_path / "a.pth").touch()
    distribution("genfw-toys", "toys_twice", PLUGIN.replace("plain-energy", "vaebm-energy"))
    called = call("import", "vaebm-energy", "a.pth")
    assert called.code == 4
    assert "genfw-toys/vaebm-energy (version 0.3)" in called.err
    assert "write one of them in full" in called.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("import", "vaebm-enrgy", "a.pth"), 4, "no importer 'vaebm-enrgy' - did you mean 'vaebm-energy'?"),
        (("import", "pictures", "a.pth"), 4, "no importer 'pictures'; there are "),
        (("import", "vaebm-energy"), 2, "name the file to import as 'vaebm-energy'"),
        (("import", "vaebm-energy", "absent.pth"), 1, "there is no file absent.pth"),
    ],
)
def test_mistakes(call, arguments, code, message):
    called = call(*arguments)
    assert called.code == code
    assert message in called.err
    assert called.out == ""


def test_malicious_files_are_refused(call, tmp_path):
    torch.save({"model": Shell()}, tmp_path / "bad.pth")
    called = call("import", "vaebm-energy", "bad.pth")
    assert called.code == 1
    assert f"refused: the file asks for '{os.system.__module__}.system'" in called.err
    assert "Traceback" not in called.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth"]

"""`verify` and `new`."""

import json

import pytest

PLUGIN = """
    from genfw.plugins.component import Component
    from genfw.plugins.hookspecs import hookimpl

    @hookimpl
    def genfw_components():
        return [Component("energy", "quad", "{module}_energy:Quad", "k |v|^2 / 2")]
"""

ENERGY = '''
    import torch
    from torch import Tensor, nn
    from genfw.interfaces import Energy

    class Quad(Energy):
        """A quadratic well.

        Arguments:
            scale: Factor.
        """

        on = "data"

        def __init__(self, scale: float = 1.0) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(scale))

        def forward(self, v: Tensor) -> Tensor:
            return {result}
'''


@pytest.fixture
def quad(write, distribution):
    """Install a plugin with one energy whose `forward` returns an expression."""

    def install(module, result):
        write(f"site/{module}_energy.py", ENERGY.format(result=result))
        distribution(f"genfw-{module}", module, PLUGIN.format(module=module))

    return install


def test_a_sound_component_passes_every_law(call, quad):
    quad("quadright", "self.weight * v.flatten(1).square().sum(1)")
    said = call("verify")
    assert said.code == 0, said.out
    assert {row[0] for row in said.rows} == {"passed"}
    assert {row[1] for row in said.rows} == {"energy/quad"}
    assert len(said.rows) > 10
    assert call("verify", "genfw-quadright").rows == said.rows


def test_a_broken_law_is_named_and_exits_5(call, quad):
    quad("quadwrong", "self.weight * v.detach().flatten(1).square().sum(1)")
    said = call("verify", "energy/quad", "--json")
    assert said.code == 5
    found = json.loads(said.out)
    assert found["ok"] is False
    failed = [check["law"] for check in found["checks"] if check["outcome"] == "failed"]
    # What is detached has no gradient, outside a chain and inside.
    assert failed == ["a chain changes nothing", "gradient in the input is the derivative"]


def test_arguments_are_given_by_set(call):
    left_out = call("verify", "standard-normal")
    assert left_out.code == 0
    assert ["left out", "prior/standard-normal", "its behaviour", "dim must be given: --set dim=VALUE"] in left_out.rows
    said = call("verify", "standard-normal", "--set", "dim=3")
    assert {row[0] for row in said.rows} == {"passed"}
    wrong = call("verify", "energy/mlp", "--set", "hiden=[3]")
    assert wrong.code == 5
    assert "there is no parameter 'hiden'" in wrong.out
    assert call("verify", "energy/mlp", "--set", "hidden").code == 2


@pytest.mark.parametrize("name", ["energy/mlp", "decoder/mlp", "encoder/mlp", "noise", "optimizer/adam", "pinwheel"])
def test_built_in_components_pass(call, name):
    said = call("verify", name)
    assert said.code == 0, said.out
    assert {row[0] for row in said.rows} == {"passed"}


def test_without_third_parties_there_is_nothing_to_verify(call):
    said = call("verify", "--no-plugins")
    assert (said.code, said.out) == (0, "")
    assert "built-in" in said.err


def test_broken_plugin_can_not_be_verified(call, distribution):
    distribution("genfw-odd", "oddplug", "1 / 0\n")
    said = call("verify", "genfw-odd")
    assert said.code == 4
    assert "ZeroDivisionError" in said.err


def test_new_plugin_is_written_found_and_verified(call, write, tmp_path, monkeypatch):
    said = call("new", "energy", "double-well")
    assert said.code == 0, said.err
    name = said.out.strip()
    assert (tmp_path / name / "pyproject.toml").is_file()
    assert "genfw verify energy/double-well" in said.err
    # Installed, as far as Python can tell.
    write(f"{name}/w-0.1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    write(f"{name}/w-0.1.0.dist-info/entry_points.txt", "[genfw]\ndouble-well = genfw_double_well\n")
    monkeypatch.syspath_prepend(tmp_path / name)
    assert ["energy", "double-well"] in [row[:2] for row in call("list", "energy").rows]
    verified = call("verify", name)
    assert verified.code == 0, verified.out
    assert {row[0] for row in verified.rows} == {"passed"}
    again = call("new", "energy", "double-well")
    assert again.code == 4
    assert "double-well" in again.err


def test_new_refuses_unknown_kinds(call):
    said = call("new", "enrgy", "x")
    assert said.code == 2
    assert "energy" in said.err


def test_what_is_absent_is_left_out_and_no_fault(call, tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_DATA", str(tmp_path))
    said = call("verify", "dataset/mnist")
    assert said.code == 0
    left_out = [row for row in said.rows if row[0] == "left out"]
    assert left_out
    assert all("absent" in row[3] for row in left_out)
    stage = call("verify", "elbo")
    assert stage.code == 0
    assert "genfw.testing.StageSuite" in stage.rows[-1][3]

"""What the README shows is what there is."""

import re

import yaml

from genfw.plugins import load_plugins
from genfw.recipes.recipe import load_recipe, parse_recipe
from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language, containing):
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if containing in text]
    return found


def test_the_recipe_shown_is_the_recipe_shipped():
    shown = parse_recipe(block("yaml", "name: quickstart")).plain()
    shipped = load_recipe(ROOT / "recipes" / "quickstart.yaml").plain()
    for section in ("data", "prior", "decoder", "encoder", "energy", "train", "evaluate", "seed"):
        assert shown[section] == shipped[section], section
    assert shown["sample"].items() <= shipped["sample"].items()


def test_the_ten_line_energy_works(tmp_path):
    (tmp_path / "ring.py").write_text(block("python", "class Ring"))
    registry = load_plugins(local=[tmp_path / "ring.py"])
    ring = registry.load_class(registry.find("energy", "ring"))(radius=2.0)
    import torch

    assert ring(torch.tensor([[2.0, 0.0], [0.0, 3.0]])).tolist() == [0.0, 1.0]


def test_ci_runs_the_commands_shown():
    commands = re.findall(r"<!-- ci:(\w+) -->\n```bash\n(.+?)\n```\n<!-- ci:end -->", README, re.S)
    assert [name for name, _ in commands] == ["quickstart", "test"]
    assert all("constraints.txt" in command and "\n" not in command for _, command in commands)
    pins = (ROOT / "constraints.txt").read_text().split()
    assert "torch==2.13.0" in pins
    assert yaml.safe_load((ROOT / "registry.yaml").read_text())

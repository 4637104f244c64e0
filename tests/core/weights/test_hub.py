"""Models published and fetched: the same bits, only data files, and the Hub's card with every number."""

import subprocess
import sys

import pytest
import torch
import yaml

import genfw
from genfw.errors import PluginError, RunError
from genfw.runs.cards import Card, CardNumber, read_card
from genfw.weights import hub
from genfw_cli.main import main
from hub_server import hub_server
from tiny_recipe import TINY_RUN


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return genfw.run(TINY_RUN, root=tmp_path_factory.mktemp("runs")).directory


@pytest.fixture
def server(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with hub_server() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running


def same(one, other):
    assert torch.equal(one.sample(5, seed=3), other.sample(5, seed=3))
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    )


def test_a_model_comes_back_from_the_hub_bit_for_bit(trained, server, tmp_path):
    address = genfw.push(trained, "someone/tiny-vae", token="none")
    assert address == f"{server.url}/someone/tiny-vae"
    files = server.hub.repositories["someone/tiny-vae"]
    assert {"model.safetensors", "resolved.yaml", "card.yaml", "README.md"} <= set(files)
    same(genfw.load(trained), genfw.from_pretrained("someone/tiny-vae"))
    # What else lies there is not fetched.
    files |= {"evil.py": b"raise SystemExit", "weights.pkl": b"..."}
    folder = genfw.pull("someone/tiny-vae", tmp_path / "pulled")
    assert {path.name for path in folder.iterdir()}.isdisjoint({"evil.py", "weights.pkl"})
    assert not any("evil" in request or "pkl" in request for request in server.hub.requests)
    same(genfw.load(trained), genfw.load(folder))
    # A second push to the same place replaces it.
    genfw.push(folder, "someone/tiny-vae", token="none")


def test_the_command_line_does_the_same(trained, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(trained), "someone/tiny"]) == 0
    assert main(["pull", "someone/tiny"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{server.url}/someone/tiny", str(tmp_path / "tiny")]
    same(genfw.load(trained), genfw.load("tiny"))


def test_the_hub_shows_every_number(trained, server):
    genfw.push(trained, "someone/tiny", token="none")
    page = server.hub.repositories["someone/tiny"]["README.md"].decode()
    head = yaml.safe_load(page.split("---\n")[1])
    card = genfw.from_pretrained("someone/tiny").card
    assert head["library_name"] == "genfw"
    assert head["license"] == "apache-2.0"
    assert "elbo" in head["tags"]
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "gaussian-grid"
    assert {(m["type"], m["value"]) for m in result["metrics"]} == {(n.name, n.value) for n in card.numbers}
    # The client's own reader of cards takes it.
    from huggingface_hub import ModelCard

    assert len(ModelCard(page).data.eval_results) == len(card.numbers)


def test_a_folder_is_a_place_too(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    place = f"local:{tmp_path / 'shared'}"
    assert genfw.push(trained, place) == str(tmp_path / "shared")
    same(genfw.load(trained), genfw.from_pretrained(place))
    same(genfw.load(trained), genfw.load(genfw.pull(place, tmp_path / "again")))
    with pytest.raises(RunError, match="absent or empty"):
        genfw.push(trained, place)
    with pytest.raises(RunError, match="is no model that genfw has saved"):
        genfw.pull(f"local:{tmp_path / 'nothing'}")
    with pytest.raises(PluginError, match=r"pip install 'genfw\[hub\]'"):
        genfw.pull("someone/tiny")


def test_an_absent_model_is_one_sentence(server):
    with pytest.raises(RunError, match="'someone/nothing' on the Hub"):
        genfw.from_pretrained("someone/nothing")


def test_a_strange_card_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(
        "name: x\nminutes: [1]\nnumbers: [{name: a, value: 1}, 3, {name: b}]\nprotocol: 5\ndata_shape: no\n"
    )
    assert read_card(path) == Card("x", numbers=(CardNumber("a", 1.0),))
    path.write_text("minutes: 3")
    with pytest.raises(RunError, match="it has no name"):
        read_card(path)
    (tmp_path / "card.yaml").write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(RunError, match="it has no name"):
        read_card(path)


def test_listing_models_imports_no_torch():
    code = (
        "import sys\nfrom genfw.plugins import load_plugins\nfrom genfw.runs.cards import shipped_models\n"
        "assert shipped_models(load_plugins().model_dirs())\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_metadata_of_points_claims_no_task_of_the_hub():
    assert "pipeline_tag" not in hub._metadata(Card("x", data_shape=(2,)))
    assert hub._metadata(Card("x", data_shape=(1, 8, 8)))["pipeline_tag"] == "unconditional-image-generation"

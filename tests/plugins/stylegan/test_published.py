"""Published StyleGANs, written in each of their formats, come back as the generators they were; code is refused."""

import io
import json
import pickle

import numpy as np
import pytest
import torch

from genfw.errors import ContractError, DataError
from genfw.interfaces.values import Latent, NoiseLayout
from genfw.plugins import load_plugins
from genfw.weights.importing import import_checkpoint
from genfw.weights.load import load_into
from genfw_plugins.stylegan.decoder import StyleGANDecoder
from genfw_plugins.stylegan.encoder import StyleGANEncoder
from genfw_plugins.stylegan.prior import StyleGANPrior
from genfw_plugins.stylegan.published.pickles import open_network
from genfw_plugins.stylegan.published.read import read
from stylegan_formats import (
    LAYERS,
    SIDE,
    WIDTH,
    EasyDict,
    Persistent,
    as_ada,
    as_generator,
    as_idinvert,
    as_module,
    as_network,
    as_rosinality,
    decoder_of,
    stand_in,
)


@pytest.fixture
def nvidia(monkeypatch):
    stand_in(monkeypatch)


def importers():
    return load_plugins(enabled=False).find_importers("stylegan")


def check(file, decoder, tmp_path):
    """Import a file, build what its card says, and compare the images of styles."""
    done = import_checkpoint(importers(), file, tmp_path / "out.safetensors")
    card = json.loads(done.card.read_text())
    block = {name: value for name, value in card["architecture"]["decoder"].items() if name != "use"}
    layout = NoiseLayout.of(**{"z.0": (decoder.synthesis.layer_count, WIDTH)})
    torch.manual_seed(99)
    again = StyleGANDecoder(decoder.data_shape, layout, **block, weights=done.weights, frozen=True)
    styles, z = torch.randn(2, *layout.groups[0].shape), torch.randn(3, WIDTH)
    with torch.no_grad():
        latent = Latent((styles,))
        torch.testing.assert_close(again(latent).mean, decoder(latent).mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again.mapping(z), decoder.mapping(z))
    assert torch.equal(again.mapping.mean, decoder.mapping.mean)
    prior = StyleGANPrior(decoder.data_shape, width=card["architecture"]["prior"]["width"], weights=done.weights)
    assert torch.equal(prior.mean, decoder.mapping.mean)
    covariance = decoder.mapping.statistics(20_000, torch.Generator().manual_seed(5))[1]
    assert float((prior.factor @ prior.factor.T - covariance).norm() / covariance.norm()) < 0.1
    return card


# -- each format ------------------------------------------------------------------------------------------------------


def test_idinvert(tmp_path):
    decoder = decoder_of("stylegan")
    torch.save(as_idinvert(decoder.state_dict()), tmp_path / "styleganinv_generator.pth")
    card = check(tmp_path / "styleganinv_generator.pth", decoder, tmp_path)
    assert "truncation.truncation" in card["unused"]


def test_idinvert_where_doubling_is_fused(tmp_path):
    decoder = decoder_of("stylegan", side=128)
    torch.save(as_idinvert(decoder.state_dict()), tmp_path / "a.pth")
    check(tmp_path / "a.pth", decoder, tmp_path)


@pytest.mark.parametrize("norms", [True, False])
def test_idinvert_s_encoder(tmp_path, norms):
    torch.manual_seed(0)
    prior = StyleGANPrior((3, SIDE, SIDE), width=WIDTH)
    encoder = StyleGANEncoder((3, SIDE, SIDE), prior, channels_base=2, channels_max=3).eval()
    renamed = {"first": "block0.conv", "first_norm": "block0.bn.bn", "last": "block3.fc", "last_norm": "block3.bn.bn"}
    inner = {"first": "conv1", "second": "conv2", "shortcut": "conv", "first_norm": "bn1.bn", "second_norm": "bn2.bn",
             "shortcut_norm": "bn.bn"}  # fmt: skip
    saved = {}
    biases = {f"block{block}.wscale{digit}.bias": torch.randn(3) for block in (1, 2) for digit in (1, 2)}
    biases["block1.wscale1.bias"] = torch.randn(2)
    for name, value in encoder.net.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "blocks":
            number, layer, leaf = rest.split(".")
            saved[f"block{int(number) + 1}.{inner[layer]}.{leaf}"] = value
        else:
            saved[f"{renamed[part]}.{rest}"] = value * 12**0.5 * 2 if part == "last" else value
    for name, bias in biases.items():  # a bias before a batch norm moves its mean
        mean = name.replace("wscale", "bn").replace(".bias", ".bn.running_mean")
        saved |= {name: bias, mean: saved[mean] + bias}
        if not norms:
            layer = f"{'first' if '1.bias' in name else 'second'}_norm"
            getattr(encoder.net.blocks[int(name[5]) - 1], layer).bias.data.copy_(bias)
    if not norms:
        saved = {name: value for name, value in saved.items() if ".bn." not in name}
    torch.save(saved, tmp_path / "encoder.pth")
    done = import_checkpoint(importers(), tmp_path / "encoder.pth", tmp_path / "e.safetensors")
    block = {name: value for name, value in done.content["architecture"]["encoder"].items() if name != "use"}
    again = StyleGANEncoder((3, SIDE, SIDE), prior, **block, weights=done.weights).eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(again.styles(x), encoder.styles(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["stylegan2-skip", "stylegan2-resnet"])
@pytest.mark.usefixtures("nvidia")
def test_nvidia_s_pytorch(architecture, tmp_path):
    decoder, other = decoder_of(architecture), decoder_of(architecture, seed=1)
    networks = {"G": as_module(as_ada(other.state_dict())), "D": as_module({"b4.weight": torch.ones(2)})}
    networks |= {"G_ema": as_module(as_ada(decoder.state_dict())), "training_set_kwargs": EasyDict(xflip=True)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**networks, "augment_pipe": None}))
    card = check(tmp_path / "a.pkl", decoder, tmp_path)
    assert card["arguments"] == {"z_dim": WIDTH, "c_dim": 0, "img_channels": 3}
    assert "D.b4.weight" in card["unused"]


@pytest.mark.parametrize(
    ("architecture", "side"),
    [("stylegan", SIDE), ("stylegan", 128), ("stylegan2-skip", SIDE), ("stylegan2-resnet", SIDE)],
)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.usefixtures("nvidia")
def test_nvidia_s_tensorflow(architecture, side, protocol, tmp_path):
    if (side, protocol) == (128, 2):
        return  # the protocol changes nothing in the weights
    decoder = decoder_of(architecture, side)
    networks = (
        as_generator(decoder_of(architecture, side, 1)),
        as_network({"w": torch.ones(2)}),
        as_generator(decoder, resolution=side),
    )
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(networks, protocol))
    assert check(tmp_path / "a.pkl", decoder, tmp_path)["arguments"] == {"label_size": 0, "resolution": side}


def test_rosinality(tmp_path):
    decoder, other = decoder_of("stylegan2-skip"), decoder_of("stylegan2-skip", seed=1)
    parts = {
        "g": as_rosinality(other.state_dict()),
        "g_ema": as_rosinality(decoder.state_dict()),
        "d": {"w": torch.ones(1)},
    }
    torch.save({**parts, "latent_avg": decoder.mapping.mean}, tmp_path / "550000.pt")
    check(tmp_path / "550000.pt", decoder, tmp_path)


@pytest.mark.usefixtures("nvidia")
def test_numbers_lie_as_numpy_laid_them(tmp_path):
    values = {"rows": torch.arange(6.0).view(2, 3), "columns": torch.arange(6.0).view(3, 2).T, "one": torch.tensor(3.0)}
    network = as_network(dict(values), label_size=0)
    network.state["variables"].append(("half", np.arange(3, dtype="f2")))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(network))
    with open_network(tmp_path / "a.pkl") as published:
        for name, value in values.items():
            assert torch.equal(published.tensors[f"G_ema.{name}"], value), name
        assert published.tensors["G_ema.half"].tolist() == [0, 1, 2]


# -- what is refused --------------------------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: Calls(__import__("os").system, "touch witness"), ".system'"),
        (lambda: Calls(eval, "open('witness', 'w')"), "'builtins.eval'"),
        (lambda: Calls(torch.load, "witness"), "'torch.serialization.load'"),
        (lambda: Calls(np.load, "witness"), "'numpy.load'"),
        (lambda: Calls(getattr, "text", "encode"), "'builtins.getattr'"),
    ],
)
@pytest.mark.usefixtures("nvidia")
def test_code_in_a_pickle_is_refused_by_name(build, culprit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"_buffers": {"w": torch.ones(2), "evil": build()}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": Persistent(state)}))
    with pytest.raises(DataError, match="refused: the file asks for") as caught:
        import_checkpoint(importers(), tmp_path / "a.pkl", tmp_path / "out.safetensors")
    assert culprit in str(caught.value)
    assert not (tmp_path / "witness").exists()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.usefixtures("nvidia")
def test_code_inside_a_storage_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = io.BytesIO()
    torch.save(Calls(eval, "open('witness', 'w')"), inside, _use_new_zipfile_serialization=False)
    evil = Calls(torch.storage._load_from_bytes, inside.getvalue())
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": Persistent({"_buffers": {"w": evil}})}))
    with pytest.raises(DataError, match=r"'builtins\.eval'"), open_network(tmp_path / "a.pkl"):
        pass
    assert not (tmp_path / "witness").exists()


@pytest.mark.usefixtures("nvidia")
def test_files_that_are_no_networks(tmp_path):
    tensor = Calls(torch.storage._load_from_bytes, b"no")
    cases = {
        "absent": (None, "there is no file"),
        "plain": (pickle.dumps({"a": 1}), "no networks that are known here"),
        "number": (pickle.dumps([1.5]), "no networks that are known here"),
        "text": (b"hello", "no checkpoint"),
        "storage": (pickle.dumps({"a": tensor}), "no checkpoint of torch.save"),
        "state": (pickle.dumps({"G": Persistent([1])}), "damaged: a network without state"),
        "part": (pickle.dumps({"G": Persistent({"_modules": {"b4": 3}})}), "the part 'b4' of a network"),
        "array": (
            pickle.dumps(as_network({"w": torch.ones(2)})).replace(b"static_kwargs", b"static_kwargz"),
            "without variables",
        ),
        "objects": (pickle.dumps(np.array([None])), "no networks that are known here"),
        "cut": (pickle.dumps(as_network({"w": torch.ones(200)}))[:-300], "damaged"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message), open_network(tmp_path / name):
            pass


def test_generators_that_can_not_be_taken_over(tmp_path):
    state = as_ada(decoder_of("stylegan2-skip").state_dict())
    twice = {f"{name}.{key}": value for name in ("a", "b") for key, value in state.items()}
    with pytest.raises(DataError, match=r"one generator was expected.* by --pick: a, b"):
        read(twice, {})
    with pytest.raises(DataError, match="c_dim = 10 can't be read"):
        read(state, {"c_dim": 10})
    with pytest.raises(DataError, match=r"lacks 'synthesis\.b4\.conv1\.noise_const'"):
        read({name: value for name, value in state.items() if not name.endswith("b4.conv1.noise_const")}, {})
    odd = {**state, "synthesis.b8.conv1.weight": torch.ones(5, 8, 3, 3)}
    with pytest.raises(DataError, match=r"maps of \[8, 5, 4\] channels from 4x4 to 16x16"):
        read(odd, {})
    assert not read({"conv1.weight": torch.ones(1)}, {}).tensors


def test_weights_of_another_size_are_told_of(tmp_path):
    torch.save(as_idinvert(decoder_of("stylegan").state_dict()), tmp_path / "a.pth")
    done = import_checkpoint(importers(), tmp_path / "a.pth", tmp_path / "out.safetensors")
    other = StyleGANDecoder(
        (3, SIDE, SIDE), NoiseLayout.of(**{"z.0": (LAYERS, WIDTH)}), channels_base=64, channels_max=4
    )
    with pytest.raises(ContractError, match="does not fit StyleGANDecoder"):
        load_into(other, done.weights, ["decoder"])

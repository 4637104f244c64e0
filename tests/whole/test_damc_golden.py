"""The published DAMC networks and walks, number by number; runs where the reference values are at hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open

from genfw.errors import ContractError, DataError
from genfw.interfaces.values import Latent
from genfw.models.chains import run_chain
from genfw.models.model import Model
from genfw.models.targets import PosteriorTarget, PriorTarget
from genfw.plugins import load_plugins
from genfw.weights.importing import import_checkpoint
from genfw.weights.load import load_into
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan.decoder import DCGANDecoder
from genfw_plugins.dcgan.encoder import DCGANEncoder
from genfw_plugins.dcgan.published import convert as convert_dcgan
from genfw_plugins.dcgan.published import read as read_dcgan
from genfw_plugins.ddpm.amortizer import DDPM
from genfw_plugins.ddpm.published import convert as convert_ddpm
from genfw_plugins.ddpm.published import read as read_ddpm
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.mlp_energy.published import convert as convert_energy
from genfw_plugins.mlp_energy.published import read as read_energy
from places import GOLDEN

FILES = sorted(GOLDEN.glob("damc-*.safetensors"))


class Golden:
    """The values of one file, and the model that its weights make."""

    def __init__(self, file):
        with safe_open(file, "pt") as opened:
            self.config = json.loads(opened.metadata()["config"])
            self.values = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        name, config = file.stem.removeprefix("damc-"), self.config
        shape = tuple(config["image"])
        prior = StandardNormal(config["nz"])
        layout = Model(prior).latent_layout
        width = config["nif"]
        decoder = DCGANDecoder(shape, layout, architecture=name, width=width * (2 if name == "svhn" else 1),
                               sigma=config["sigma"])  # fmt: skip
        energy = MLPEnergy(
            latent_layout=layout, on="latent", hidden=(config["energy_hidden"],) * 2, activation="leaky-relu"
        )
        embedding = DCGANEncoder(shape, architecture=name, width=config["nif"], embedding=config["embedding"])
        self.amortizer = DDPM(
            layout,
            shape,
            embedding,
            steps=config["diffusion_steps"],
            log_snr=tuple(config["logsnr"]),
            widths=(32, 64, 64),
            time_features=config["time_embedding"],
        )
        decoder.load_state_dict(convert_dcgan(self.part("decoder.")))
        energy.load_state_dict(convert_energy(self.part("energy.")))
        self.amortizer.load_state_dict(convert_ddpm(self.part("amortizer.")))
        self.model = Model(prior, decoder, energy=energy, amortizer=self.amortizer)

    def __getitem__(self, name):
        return self.values[name]

    def part(self, prefix):
        """Weights under a prefix; results, whose names have brackets, are none."""
        return {k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix) and "(" not in k}


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def golden(request):
    return Golden(request.param)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@contextmanager
def draws(monkeypatch, *, normal=(), uniform=()) -> Iterator[None]:
    """torch.randn and torch.rand give the reference's noise, in turn; all of it must be used, nothing beyond it."""
    queues = {"randn": [*normal], "rand": [*uniform]}

    def instead(name):
        def draw(*size, **_):
            shape = tuple(size[0]) if isinstance(size[0], tuple | list | torch.Size) else tuple(size)
            value = queues[name].pop(0)
            assert tuple(value.shape) == shape, f"{name} was asked for {shape}, the reference drew {value.shape}"
            return value

        return draw

    with monkeypatch.context() as patch:
        for name in queues:
            patch.setattr(torch, name, instead(name))
        yield
    assert queues == {"randn": [], "rand": []}, "not all of the reference's noise was used"


def test_networks(golden):
    model = golden.model
    with torch.no_grad():
        close(model.likelihood(Latent((golden["z"],))).mean, golden["decoder(z)"])
        close(model.latent_energy(Latent((golden["z"],))), golden["energy(z)"])
        close(golden.amortizer.encoder.embed(golden["x"]), golden["encoder(x)"])


def test_predicted_noise(golden):
    network = golden.amortizer.network
    with torch.no_grad():
        condition = network.of_time(golden["logsnr"]) + network.of_context(golden["encoder(x)"])
        close(network(golden["z"], condition), golden["amortizer.eps_pred(z,logsnr,encoder(x))"])


def test_schedule(golden):
    close(golden.amortizer.schedule(golden["schedule.u"]), golden["schedule.logsnr"])


def test_conditional_draw(golden, monkeypatch):
    with draws(monkeypatch, normal=golden["conditional.noise"]):
        sample = golden.amortizer.sample_given(golden["x"], generator=torch.Generator())
    close(sample, golden["conditional.sample"])


def test_unconditional_draw(golden, monkeypatch):
    with draws(monkeypatch, normal=golden["unconditional.noise"]):
        sample = golden.amortizer.sample(4, generator=torch.Generator())
    close(sample, golden["unconditional.sample"])


def test_loss(golden, monkeypatch):
    hidden = golden["loss.mask"][:, 0] == 0
    assert hidden.any()
    assert not hidden.all()
    with (
        draws(monkeypatch, uniform=[golden["loss.u"]], normal=[golden["loss.eps"], golden["loss.null_noise"]]),
        torch.no_grad(),
    ):
        loss = golden.amortizer.loss(golden["z"], golden["x"], generator=torch.Generator(), hidden=hidden)
    close(loss, golden["loss"])


@pytest.mark.parametrize(("chain", "s"), [("prior", 0.4), ("posterior", 0.1)])
def test_langevin(golden, monkeypatch, chain, s):
    target = PriorTarget(golden.model) if chain == "prior" else PosteriorTarget(golden.model, golden["x"])
    noise = golden[f"{chain}_langevin.noise"]
    sampler = Langevin(step_size=s**2 / 2, steps=len(noise))
    with draws(monkeypatch, normal=noise):
        result = run_chain(target, sampler, golden["z"], generator=torch.Generator())
    close(result.position, golden[f"{chain}_langevin.steps{len(noise)}.s{s}.out"])


def test_strange_weights_are_refused():
    with pytest.raises(ContractError, match=r"not the weights of a published DAMC amortizer.*got gen\.0\.weight"):
        convert_ddpm({"gen.0.weight": torch.zeros(1)})


def arguments(block):
    """What a recipe's block gives to the constructor."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in block.items() if name != "use"}


def test_a_whole_checkpoint_is_imported(golden, tmp_path):
    """Saved as the published training loop saves it, with an optimiser and the moving average beside the networks."""
    parts = {"G": golden.part("decoder."), "E": golden.part("energy."), "Q": golden.part("amortizer.")}
    saved = {f"{name}_state_dict": state for name, state in parts.items()}
    saved |= {"Q_dummy_state_dict": {k: v + 1 for k, v in parts["Q"].items()}, "G_optimizer": {"state": {}}, "iter": 7}
    torch.save(saved, tmp_path / "best.pth.tar")
    importers = load_plugins(enabled=False).find_importers("damc")
    done = import_checkpoint(importers, tmp_path / "best.pth.tar", tmp_path / "out.safetensors")
    assert all(name.startswith(("Q_dummy_state_dict.", "Q_state_dict.xemb")) for name in done.content["unused"])
    blocks = {role: arguments(block) for role, block in done.content["architecture"].items()}
    shape, prior = tuple(golden.config["image"]), StandardNormal(golden.config["nz"])
    layout = Model(prior).latent_layout
    encoder = DCGANEncoder(shape, **arguments(blocks["amortizer"].pop("encoder")))
    model = Model(
        prior,
        DCGANDecoder(shape, layout, **blocks["decoder"]),
        energy=MLPEnergy(latent_layout=layout, **blocks["energy"]),
        amortizer=DDPM(layout, shape, encoder, **blocks["amortizer"]),
    )
    load_into(model, done.weights)
    with torch.no_grad():
        close(model.likelihood(Latent((golden["z"],))).mean, golden["decoder(z)"])
        close(model.latent_energy(Latent((golden["z"],))), golden["energy(z)"])
        close(model.amortizer.encoder.embed(golden["x"]), golden["encoder(x)"])
        network = model.amortizer.network
        condition = network.of_time(golden["logsnr"]) + network.of_context(golden["encoder(x)"])
        close(network(golden["z"], condition), golden["amortizer.eps_pred(z,logsnr,encoder(x))"])


def test_an_lebm_checkpoint_is_imported(golden, tmp_path):
    torch.save({"netG": golden.part("decoder."), "netE": golden.part("energy."), "epoch": 1}, tmp_path / "a.pth")
    importers = load_plugins(enabled=False).find_importers("lebm")
    done = import_checkpoint(importers, tmp_path / "a.pth", tmp_path / "out.safetensors")
    assert done.content["architecture"].keys() == {"decoder", "energy"}
    assert load_into(golden.model, done.weights, ["decoder", "energy"]) == ()


@pytest.mark.parametrize(
    ("read", "mark"), [(read_dcgan, "gen.0.weight"), (read_energy, "ebm.0.weight"), (read_ddpm, "p.B")]
)
def test_reader_leaves_other_files_alone_and_refuses_to_guess(read, mark):
    assert not read({"conv1.weight": torch.zeros(1)}, {}).tensors
    with pytest.raises(DataError, match=r"one \w+ was expected"):
        read({f"a.{mark}": torch.zeros(1), f"b.{mark}": torch.zeros(1)}, {})

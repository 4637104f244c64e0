"""Anomaly detection on models whose scores are known, against scikit-learn called directly."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from genfw.errors import ContractError, DataError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.results import Figure
from genfw.interfaces import Dataset, Decoder, Encoder, Energy, Posterior, TensorSplit
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.values import Latent
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.runs.directory import RunDirectory
from genfw.testing import MetricSuite
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.encoder import EncoderStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.metrics.detection.anomaly import Anomaly
from genfw_plugins.metrics.detection.detection import detect, draw_scores, least_auprc

SHAPE = (1, 2, 2)
SIGMA = 0.5


class Scaled(Decoder):
    """x = scale * z + sigma * noise."""

    noise_shape = SHAPE

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, latent):
        return Gaussian(self.scale * latent.flat().unflatten(1, SHAPE), SIGMA)


class Half(Encoder):
    """Puts z at x / 2, with a spread: the score at spread 0 is known."""

    def __init__(self, spread=0.0):
        super().__init__()
        self.spread = spread

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        noise = torch.randn(len(x), 4, generator=generator) if noise is None else noise
        z = 0.5 * x.flatten(1) + self.spread * temperature * noise
        zero = torch.zeros(len(x))
        return Posterior(Latent((z,)), z, zero, zero, torch.full((len(x), 1), 3.0))


class Tilt(Energy):
    on = "latent"

    def forward(self, v):
        return 2.0 * v[:, 0]


class HeldOut(Dataset):
    """Inliers are small, outliers larger: told apart in part."""

    data_shape = SHAPE

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = {"test": 0.8 * torch.randn(150, *SHAPE, generator=generator)}
        self.x["held-out"] = 1.2 * torch.randn(50, *SHAPE, generator=generator)

    def split(self, name):
        if name not in self.x:
            raise DataError(f"there is no split '{name}'")
        return TensorSplit(self.x[name])


class Quiet(Evaluation):
    """Draws no pictures, which take longer than the numbers."""

    def figure(self, name, title, caption, draw, **arguments):
        return Figure(f"figures/{name}.png", title, caption)

    picture = figure


def evaluation(tmp_path, model, kind=Evaluation):
    return kind(model, HeldOut(), directory=tmp_path, seed=1)


def take(metric, tmp_path, model, kind=Quiet):
    return {result.name: result for result in metric.compute(evaluation(tmp_path, model, kind))}


def by_hand(score):
    data = HeldOut().x
    values = torch.cat([score(data[name].flatten(1)) for name in ("test", "held-out")])
    truth = torch.cat([torch.zeros(150), torch.ones(50)])
    return average_precision_score(truth, values), roc_auc_score(truth, values)


SCORES = {
    "log-joint": lambda x: 0.125 * x.square().sum(1) + x[:, 0] + 0.5 * x.square().sum(1) / (4 * SIGMA**2),
    "reconstruction": lambda x: 0.25 * x.square().sum(1),
    "energy": lambda x: 0.125 * x.square().sum(1) + x[:, 0],
    "tilt": lambda x: x[:, 0],
    "prior": lambda x: 0.125 * x.square().sum(1),
    "elbo": lambda x: 0.5 * x.square().sum(1) / (4 * SIGMA**2) + 3.0 + x[:, 0],
}


def test_every_score_is_its_formula(tmp_path):
    model = Model(StandardNormal(4), Scaled(), Half(), Tilt())
    results = take(Anomaly(scores=tuple(SCORES), trials=2, batch=64), tmp_path, model, Evaluation)
    for number, (name, score) in enumerate(SCORES.items()):
        ending = f"-{name}" if number else ""
        auprc, auroc = by_hand(score)
        assert results[f"auprc{ending}"].value == pytest.approx(auprc, abs=1e-6)
        assert results[f"auroc{ending}"].value == pytest.approx(auroc, abs=1e-6)
        assert results[f"auprc{ending}"].error == 0.0  # nothing is drawn
    assert len(results) == 18
    assert "Chance: 0.250. Least possible: 0.137." in results["auprc"].note
    assert (tmp_path / results["auprc"].figures[0].path).stat().st_size > 1000
    assert results["auprc"].protocol["inliers"] == "test (150)"


def test_the_published_weight_of_the_squared_error(tmp_path):
    model = Model(StandardNormal(4), Scaled(), Half(), Tilt())
    results = take(Anomaly(weight=1.0, trials=1), tmp_path, model)
    auprc, _ = by_hand(lambda x: 0.125 * x.square().sum(1) + x[:, 0] + 0.25 * x.square().sum(1))
    assert results["auprc"].value == pytest.approx(auprc, abs=1e-6)
    assert auprc != pytest.approx(by_hand(SCORES["log-joint"])[0], abs=1e-3)
    assert results["auprc"].protocol["error_weight"] == 1.0


def test_without_a_sampler_the_start_itself_is_scored(tmp_path):
    chain = Chain(None, EncoderStart(encoder=Half()))
    results = take(Anomaly(chain=chain, trials=1), tmp_path, Model(StandardNormal(4), Scaled(), None, Tilt()))
    assert results["auprc"].value == pytest.approx(by_hand(SCORES["log-joint"])[0], abs=1e-6)
    assert results["auprc"].protocol["sampler"] == "none"


def test_auprc_at_another_prevalence_is_that_of_repeated_items(tmp_path):
    low, high = torch.randn(60), 0.5 + torch.randn(20)
    half, own = detect(low, high, (0.5, 0.25)).auprc_at.values()
    assert half == pytest.approx(detect(low, high.repeat(3)).auprc)
    assert own == pytest.approx(detect(low, high).auprc)
    model = Model(StandardNormal(4), Scaled(), Half(), Tilt())
    results = take(Anomaly(scores=("elbo", "prior"), prevalence=(0.5,), trials=1), tmp_path, model)
    data = HeldOut().x
    scores = [SCORES["prior"](data[name].flatten(1)) for name in ("test", "held-out")]
    assert results["auprc-at-0.5-prior"].value == pytest.approx(detect(scores[0], scores[1].repeat(3)).auprc, abs=1e-6)
    assert "Chance: 0.500" in results["auprc-at-0.5"].note


@pytest.mark.parametrize("prevalence", [0.1, 0.388])
def test_the_least_auprc_is_that_of_outliers_ranked_last(prevalence):
    # The limits of the published splits: 0.225 for digit 1, held out by Zenati et al.
    outliers = round(20_000 * prevalence)
    worst = detect(torch.ones(20_000 - outliers), torch.linspace(-1, 0, outliers)).auprc
    assert least_auprc(prevalence) == pytest.approx(worst, abs=1e-4)
    assert least_auprc(0.388) == pytest.approx(0.225, abs=1e-3)


def test_noiseless_steps_from_the_encoder_walk_to_the_centre_of_the_posterior(tmp_path):
    # The posterior's centre is x / (1 + sigma^2); from there the joint is -log p(x) without constants.
    chain = Chain(Langevin(step_size=0.1, steps=60, noise=0.0), EncoderStart(encoder=Half()))
    model = Model(StandardNormal(4), Scaled())
    results = take(Anomaly(chain=chain, trials=1), tmp_path, model)
    auprc, auroc = by_hand(lambda x: x.square().sum(1))
    assert results["auprc"].value == pytest.approx(auprc, abs=1e-3)
    assert results["auroc"].value == pytest.approx(auroc, abs=1e-3)
    assert results["auprc"].protocol["chain_steps"] == 60


def test_trials_differ_and_their_spread_is_told(tmp_path):
    model = Model(StandardNormal(4), Scaled(), Half(spread=0.5))
    five = take(Anomaly(trials=5), tmp_path, model)
    assert five["auprc"].error > 0.0
    assert "Standard deviation over 5 trials" in five["auprc"].note
    again = take(Anomaly(trials=5), tmp_path, model)
    assert again["auprc"].value == five["auprc"].value
    assert take(Anomaly(trials=1), tmp_path, model)["auprc"].error is None


def test_weights_of_the_last_checkpoints_are_taken_in_turn_and_put_back(tmp_path):
    model = Model(StandardNormal(4), Scaled(), Half(spread=0.0))
    kept = RunDirectory(tmp_path).checkpoints
    kept.recipe.write_text("seed: 0\n")
    expected = []
    for step, scale in enumerate((5.0, 0.5, 1.0, 2.0)):
        with torch.no_grad():
            model.decoder.scale.fill_(scale)
        kept.save({"model": {k: v.clone() for k, v in model.state_dict().items()}}, stage=0, step=step)
        expected.append(take(Anomaly(scores=("elbo",), trials=1), tmp_path, model)["auprc"].value)
    with torch.no_grad():
        model.decoder.scale.fill_(7.0)
    results = take(Anomaly(scores=("elbo",), trials=2, checkpoints=3), tmp_path, model)
    assert results["auprc"].value == pytest.approx(sum(expected[1:]) / 3)
    assert "over 6 trials" in results["auprc"].note
    best = results["auprc-best-checkpoint"]
    assert best.value == pytest.approx(max(expected[1:]))
    assert "Chosen by the test set" in best.note
    assert results["auprc"].protocol["weights"] == "stage0-step000001, stage0-step000002, stage0-step000003"
    assert model.decoder.scale.item() == 7.0


def test_detection_at_its_ends():
    low, high = torch.arange(40.0), torch.arange(40.0, 50.0)
    assert (detect(low, high).auprc, detect(low, high).auroc, detect(low, high).fpr95) == (1.0, 1.0, 0.0)
    upside = detect(high, low)
    assert (upside.auroc, upside.fpr95) == (0.0, 1.0)
    tied = detect(torch.zeros(30), torch.zeros(10))
    assert (tied.auprc, tied.auroc, tied.fpr95) == (0.25, 0.5, 1.0)
    infinite = detect(low, torch.full((10,), math.inf))
    assert infinite.auprc == 1.0


def test_detection_finds_95_per_cent_of_the_outliers():
    # The 95th of 100 outliers from above scores 5; 2 of 10 inliers score at least that.
    found = detect(torch.tensor([0.0, 1, 1, 2, 2, 3, 4, 4.5, 5.5, 60]), torch.arange(100.0))
    assert found.fpr95 == pytest.approx(0.2)


def test_what_it_refuses(tmp_path):
    for arguments, message in (
        ({"scores": ()}, r"scores must hold at least one entry, each once, got \[\]"),
        ({"scores": ("energy", "energy")}, "each once, got"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"weight": 0.0}, r"weight must be above 0, got 0\.0"),
    ):
        with pytest.raises(ContractError, match=message):
            Anomaly(**arguments)
    with pytest.raises(ContractError, match="has no decoder"):
        take(Anomaly(), tmp_path, Model(StandardNormal(4), energy=Tilt()))
    with pytest.raises(ContractError, match="these scores need an encoder"):
        take(Anomaly(), tmp_path, Model(StandardNormal(4), Scaled()))
    chain = Chain(Langevin(step_size=0.1, steps=1), NoiseStart())
    with pytest.raises(ContractError, match="leave out 'elbo'"):
        take(Anomaly(chain=chain, scores=("elbo",)), tmp_path, Model(StandardNormal(4), Scaled()))
    with pytest.raises(ContractError, match="has no checkpoints to take weights from"):
        take(Anomaly(checkpoints=2), tmp_path, Model(StandardNormal(4), Scaled(), Half()))
    with pytest.raises(DataError, match="no split 'absent'"):
        take(Anomaly(outliers="absent"), tmp_path, Model(StandardNormal(4), Scaled(), Half()))
    wild = Chain(Langevin(step_size=1e15, steps=5), NoiseStart())
    with pytest.raises(ContractError, match="scores are not numbers; the chains diverged"):
        take(Anomaly(chain=wild), tmp_path, Model(StandardNormal(4), Scaled()))
    with pytest.raises(ContractError, match="got 0 inliers and 2 outliers"):
        detect(torch.empty(0), torch.zeros(2))


class TestAnomaly(MetricSuite):
    def make(self):
        return Anomaly(trials=2)

    def evaluation(self, directory):
        return evaluation(directory, Model(StandardNormal(4), Scaled(), Half(spread=0.3), Tilt()))


def test_no_two_of_many_sets_look_alike_in_the_histogram():
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas()
    draw_scores(canvas, {f"set {number}": torch.randn(50) for number in range(9)}, "score")
    (axes,) = canvas.axes
    looks = {
        (patch.get_edgecolor(), patch.get_facecolor(), patch.get_linestyle(), patch.get_fill())
        for patch in axes.get_legend().get_patches()
    }
    assert len(looks) == 9

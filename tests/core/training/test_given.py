"""Data from Python: what may be given, how it is split, and a run that is resumed with it."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import genfw
from genfw.errors import AbsentDataError, ContractError, DataError
from genfw.training.given import MapData, as_data

X = torch.arange(40.0).reshape(20, 2)
RECIPE = {
    "genfw": 1,
    "name": "given",
    "prior": {"use": "standard-normal", "dim": 2},
    "decoder": {"use": "mlp", "hidden": [4]},
    "encoder": {"use": "mlp", "hidden": [4]},
    "train": [{"use": "elbo", "steps": 2, "batch": 4, "optimizer": {"use": "adam", "lr": 1e-3}}],
    "evaluate": [{"use": "reconstruction"}],
}


def rows(data, name="train"):
    split = data.split(name)
    return split.get(torch.arange(len(split)))


def test_arrays_are_cut_into_training_and_test_rows():
    data = genfw.TensorData(X.numpy(), np.arange(20))
    (x, y), (held, labels) = rows(data), rows(data, "test")
    assert torch.equal(torch.cat([x, held]), X)
    assert torch.equal(torch.cat([y, labels]), torch.arange(20))
    assert len(held) == 2
    assert data.data_shape == (2,)
    given = genfw.TensorData(X, test=X[:3])
    assert [len(given.split(name)) for name in ("train", "test")] == [20, 3]
    with pytest.raises(DataError, match="no split 'validation'"):
        data.split("validation")


def test_bytes_are_pixels():
    x, _ = rows(genfw.TensorData(torch.tensor([0, 255, 51, 204]).to(torch.uint8).reshape(4, 1, 1, 1)))
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: genfw.TensorData(torch.tensor([[1.0], [float("nan")]])), r"1 values that are not finite.*\[1, 0\]"),
        (lambda: genfw.TensorData(X, y=torch.zeros(3)), r"20 items, and its labels have shape \(3,\)"),
        (lambda: genfw.TensorData(X[:1]), "can't be split"),
        (lambda: genfw.TensorData(torch.zeros(5)), "needs rows of one shape"),
        (lambda: genfw.TensorData(X, test=torch.zeros(3, 5)), r"test have shape \(5,\)"),
        (lambda: genfw.TensorData(X + 1j), "complex"),
        (lambda: genfw.TensorData([[1, 2], [3]]), "can't be made an array"),
    ],
)
def test_rows_that_nobody_can_train_on_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_torch_data_sets_give_their_items():
    x, y = rows(as_data(TensorDataset(X, torch.arange(20))))
    assert torch.equal(x, X[:18])
    assert torch.equal(y, torch.arange(18))
    pair = as_data((TensorDataset(X), TensorDataset(X[:5])))
    assert torch.equal(rows(pair, "test")[0], X[:5])
    assert rows(pair, "test")[1] is None
    with pytest.raises(ContractError, match="no map-style data set"):
        MapData(iter(X))


def test_pictures_become_pixels():
    image = pytest.importorskip("PIL.Image")
    grey = image.fromarray(np.full((2, 3), 255, dtype=np.uint8))
    data = as_data(_Pictures(grey))
    assert data.data_shape == (1, 2, 3)
    assert torch.equal(rows(data)[0], torch.ones(3, 1, 2, 3))


class _Pictures:
    def __init__(self, picture):
        self.picture = picture

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.picture, 1


def test_files_and_blocks(tmp_path):
    torch.save(X, tmp_path / "rows.pt")
    assert torch.equal(rows(as_data(tmp_path / "rows.pt"))[0], X[:18])
    torch.save({"x": X}, tmp_path / "dict.pt")
    with pytest.raises(DataError, match="holds dict, not one tensor"):
        as_data(tmp_path / "dict.pt")
    with pytest.raises(AbsentDataError, match="there is no file"):
        as_data("absent.pt")
    assert as_data("rows.npz") == {"use": "tensor-file", "file": "rows.npz"}
    with pytest.raises(ContractError, match="got float"):
        as_data(1.5)


def test_a_recipe_is_composed_with_the_data_given():
    composition = genfw.compose(RECIPE, data=X)
    assert composition.data.data_shape == (2,)
    assert composition.resolved.plain()["data"] == {"use": "given", "shape": [2]}
    block = genfw.compose(RECIPE, data={"use": "gaussian-grid", "train": 10, "test": 5})
    assert len(block.data.split("train")) == 10
    # From its own resolved recipe it composes too, for sampling; the rows are not there.
    again = genfw.compose(composition.resolved.plain())
    with pytest.raises(DataError, match="given in Python"):
        again.data.split("train")


def test_a_run_trains_on_the_data_given_and_goes_on_with_them(tmp_path):
    from genfw.runs.directory import RunDirectory, Status

    result = genfw.run(RECIPE, data=genfw.TensorData(X / 10), root=tmp_path)
    assert result.results[0].value is not None
    RunDirectory(result.directory).write_status(Status("interrupted"))
    with pytest.raises(DataError, match="given in Python"):
        genfw.resume(result.directory)
    again = genfw.resume(result.directory, data=genfw.TensorData(X / 10))
    assert again.results[0].value == result.results[0].value

import json
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genfw.errors import ContractError, RunError
from genfw.runs import checkpoints as module
from genfw.runs.checkpoints import Checkpoints
from genfw.runs.files import write_atomically
from genfw.runs.state_tree import join_tree, split_tree
from run_toys import assert_same


def there_and_back(tree):
    structure, tensors = split_tree(tree)
    return join_tree(json.loads(json.dumps(structure)), tensors)


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
keys = st.text(max_size=4) | st.integers(-3, 2**40) | st.sampled_from(["$", "tensor", "dict"])
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=60, deadline=None)
def test_any_tree_of_scalars_comes_back_equal_and_of_the_same_kind(tree):
    back = there_and_back({"tree": tree})["tree"]
    assert back == tree
    assert repr(back) == repr(tree)  # tells 1 from True and from 1.0, and a tuple from a list


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_floats_that_json_lacks(value):
    assert repr(there_and_back([value])) == repr([value])


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int16,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_type_of_tensor(dtype, shape, tmp_path):
    tensor = (torch.rand(shape, dtype=torch.float64) * 5).to(dtype)
    store = Checkpoints(tmp_path)
    store.save({"t": tensor}, stage=0, step=0)
    back = store.load(store.find("last"))["t"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_views_and_strides_keep_their_values(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tree = {
        "t": base.t(),
        "row": base[1],
        "step": base[:, ::2],
        "wide": torch.ones(1).expand(5),
        "base": base,
        "flat": base.view(-1),
    }
    store = Checkpoints(tmp_path)
    store.save(tree, stage=0, step=0)
    assert_same(store.load(store.find("last")), tree)


def test_saving_takes_a_copy():
    weight = torch.zeros(3)
    _, tensors = split_tree([weight])
    weight += 1
    assert all(torch.equal(stored, torch.zeros(3)) for stored in tensors.values())


def test_a_tensor_in_two_places_is_stored_once_and_stays_one():
    tied = torch.randn(4, 4)
    structure, tensors = split_tree({"a": tied, "b": {"c": tied.detach()}, "other": tied.clone()})
    assert len(tensors) == 2
    back = join_tree(structure, tensors)
    assert back["a"] is back["b"]["c"]
    assert back["a"] is not back["other"]


def test_paths_that_look_alike_stay_apart():
    tree = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)}
    assert_same(there_and_back(tree), tree)


@pytest.mark.parametrize(
    "thing", [object(), {1, 2}, b"bytes", torch.float32, {("a",): 1}, {1.5: 2}, torch.ones(2).to_sparse()]
)
def test_what_a_checkpoint_cant_hold_is_refused_with_its_place(thing):
    with pytest.raises(ContractError, match="stage/thing"):
        split_tree({"stage": {"thing": thing}})


def test_an_optimiser_comes_back(tmp_path):
    def make():
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=1e-2, amsgrad=True)

    def advance(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    net, optimizer = make()
    advance(net, optimizer)
    store = Checkpoints(tmp_path)
    store.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, stage=0, step=1)
    other, its = make()
    state = store.load(store.find("last"))
    other.load_state_dict(state["net"])
    its.load_state_dict(state["optimizer"])
    advance(net, optimizer)
    advance(other, its)
    assert_same(other.state_dict(), net.state_dict())
    assert_same(its.state_dict(), optimizer.state_dict())


def test_nothing_is_pickled(tmp_path):
    Checkpoints(tmp_path).save({"t": torch.ones(2), "n": 1}, stage=0, step=0)
    assert sorted(path.name for path in (tmp_path / "stage0-step000000").iterdir()) == [
        "checkpoint.json", "state.json", "state.safetensors",
    ]  # fmt: skip


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_flipped_byte_is_found(tmp_path, name):
    store = Checkpoints(tmp_path)
    store.save({"t": torch.ones(100)}, stage=0, step=5)
    file = store.find("last").path / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="SHA-256"):
        store.load(store.find("last"))


def test_absent_files_and_unknown_names_are_explained(tmp_path):
    store = Checkpoints(tmp_path / "none")
    with pytest.raises(RunError, match="no checkpoints"):
        store.find()
    store.save({"t": torch.ones(1)}, stage=0, step=5)
    with pytest.raises(RunError, match="stage0-step000005"):
        store.find("stage7")
    with pytest.raises(RunError, match="number 1"):
        store.load(store.find("last"), rank=1)
    (store.find("last").path / "state.safetensors").unlink()
    with pytest.raises(RunError, match="can't be read"):
        store.load(store.find("last"))


def test_half_written_folders_are_ignored_and_cleared_away(tmp_path):
    store = Checkpoints(tmp_path)
    store.save({"n": 1}, stage=0, step=1)
    (tmp_path / ".tmp-stage0-step000002").mkdir()
    (tmp_path / ".tmp-stage0-step000002" / "state.json").write_text("{}")
    (tmp_path / "stage0-step000003").mkdir()  # a copy that was stopped: no checkpoint.json
    assert [one.step for one in store.all()] == [1]
    store.clean()
    assert not (tmp_path / ".tmp-stage0-step000002").exists()
    store.save({"n": 3}, stage=0, step=3)
    assert store.load(store.find("last")) == {"n": 3}


class PowerCutError(BaseException):
    pass


def count_calls(monkeypatch, fail_at):
    """Have the ``fail_at``-th call that touches the disk raise instead."""
    calls = 0

    def wrap(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise PowerCutError
            return original(*args, **kwargs)

        return call

    for name in ("replace", "fsync"):
        monkeypatch.setattr(module.os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(module, "save_tensors", wrap(module.save_tensors))
    monkeypatch.setattr(module, "hash_file", wrap(module.hash_file))
    return lambda: calls


@pytest.mark.parametrize("again", [False, True], ids=["fresh", "over an old one"])
def test_a_cut_at_any_write_leaves_the_old_state_or_the_new(tmp_path, again):
    fail_at, cuts = 0, 0
    while True:
        fail_at += 1
        folder = tmp_path / str(fail_at)
        store = Checkpoints(folder)
        store.save({"n": torch.tensor(1)}, stage=0, step=1)
        if again:
            store.save({"n": torch.tensor(2)}, stage=0, step=2)
        with pytest.MonkeyPatch.context() as patch:
            calls = count_calls(patch, fail_at)
            try:
                store.save({"n": torch.tensor(2)}, stage=0, step=2)
                store.mark(store.find("last"), healthy=True)
                store.prune(1)
                finished = True
            except PowerCutError:
                finished, cuts = False, cuts + 1
        after = Checkpoints(folder)
        after.clean()
        found = after.find("last")
        assert after.load(found)["n"].item() == found.step  # whole, whichever it is
        assert not list(folder.glob(".*"))
        if finished:
            assert fail_at > calls()
            break
    assert cuts >= 8


def test_a_file_is_replaced_or_left(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    count_calls(monkeypatch, 2)
    with pytest.raises(PowerCutError):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


# -- which one --------------------------------------------------------------------------------------------------------


def test_best_is_the_last_stages_end_then_the_newest_healthy(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (0, 10, 20):
        store.save({"n": step}, stage=0, step=step)
    assert store.find("best").step == 20
    store.mark(store.all()[1], healthy=True)
    assert store.find("best").step == 10
    assert store.find("last").step == 20
    assert store.find("stage0-step000000").step == 0
    store.mark(store.all()[2], final=True)
    assert store.find("best").step == 20


def test_pruning_keeps_the_newest_healthy_the_undecided_and_every_stages_end(tmp_path):
    store = Checkpoints(tmp_path)
    for step in range(0, 60, 10):
        saved = store.save({"n": step}, stage=0, step=step)
        if step < 40:
            store.mark(saved, healthy=step != 20)
        if step == 50:
            store.mark(saved, final=True)
    store.save({"n": 45}, stage=0, step=45, scheduled=False)
    store.prune(2)
    assert [one.step for one in store.all()] == [10, 30, 40, 50, 45]
    store.save({"n": 0}, stage=1, step=0, healthy=True)
    store.prune(2)
    assert [(one.stage, one.step) for one in store.all()] == [(0, 50), (1, 0)]


def test_a_mark_belongs_to_one_writing_of_a_folder(tmp_path):
    store = Checkpoints(tmp_path)
    store.mark(store.save({"n": 1}, stage=0, step=1), healthy=True)
    store.save({"n": 2}, stage=0, step=2)
    store.save({"n": 1}, stage=0, step=1)  # written again after a rollback by hand
    assert [(one.step, one.healthy) for one in store.all()] == [(2, None), (1, None)]


def test_every_process_has_its_own_state(tmp_path):
    store = Checkpoints(tmp_path)
    events = []

    def barrier_of_first():
        events.append(len(events))
        if len(events) == 2:  # the others write between the first two barriers
            assert store.save({"n": 1}, stage=0, step=3, rank=1, world=2) is None

    # Rank 1 is played inside rank 0's second barrier, so that the folder is there.
    store.save({"n": 0}, stage=0, step=3, rank=0, world=2, barrier=barrier_of_first)
    found = store.find("last")
    assert [store.load(found, rank=rank)["n"] for rank in (0, 1)] == [0, 1]


# -- tampering --------------------------------------------------------------------------------------------------------


def saved(tmp_path):
    recipe = tmp_path / "resolved.yaml"
    recipe.write_text("seed: 1\n")
    store = Checkpoints(tmp_path / "checkpoints", recipe)
    store.save({"t": torch.arange(3.0), "n": 7}, stage=0, step=4, info={"rows": 9})
    return store, store.find("last")


@pytest.mark.parametrize("name", ["checkpoint.json", "state.json", "state.safetensors", "../../resolved.yaml"])
def test_a_change_of_any_file_is_noticed(name, tmp_path):
    store, checkpoint = saved(tmp_path)
    path = (checkpoint.path / name).resolve()
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RunError, match=r"damaged|can't be read|has changed|genfw \(format"):
            store.load(checkpoint)
    path.write_bytes(whole)
    assert store.load(checkpoint)["n"] == 7


def test_an_edited_step_and_an_edited_recipe_say_what_to_do(tmp_path):
    store, checkpoint = saved(tmp_path)
    meta = checkpoint.path / "checkpoint.json"
    text = meta.read_text()
    meta.write_text(text.replace('"step": 4', '"step": 2'))
    with pytest.raises(RunError, match=r"checkpoint\.json is damaged: it has changed since it was written"):
        store.load(checkpoint)
    meta.write_text(text)
    (tmp_path / "resolved.yaml").write_text("seed: 2\n")
    with pytest.raises(RunError, match="put the old file back, or begin a new run from the changed recipe"):
        store.load(checkpoint)


@pytest.mark.parametrize(("written", "which"), [(1, "an older"), (99, "a newer")])
def test_a_checkpoint_of_another_format_names_the_genfw_to_install(written, which, tmp_path):
    store, checkpoint = saved(tmp_path)
    meta = checkpoint.path / "checkpoint.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": written}))
    with pytest.raises(RunError, match=rf"written by {which} genfw \(format {written}, here 2\); install that one"):
        store.load(checkpoint)


def test_a_damaged_record_is_told_of_once_and_an_absent_one_never(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"a": step}, stage=0, step=step)
    (tmp_path / "notes").mkdir()
    (tmp_path / "stage0-step000002" / "checkpoint.json").write_text('{"step": []')
    for _ in range(2):
        assert [checkpoint.step for checkpoint in checkpoints.all()] == [1]
    (record,) = caplog.records
    assert record.getMessage().endswith("stage0-step000002/checkpoint.json is damaged, and is left out")

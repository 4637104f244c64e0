"""Binding values to constructors: strict types, every fault at its place in one pass, what is meant instead."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genfw.errors import ContractError, PluginError, RecipeError
from genfw.plugins.signature import parameters, type_name
from genfw.recipes.check import check
from genfw.recipes.recipe import load_recipe, parse_recipe
from genfw.recipes.yaml_nodes import dump
from recipe_parts import RECIPE, ToyEnergy, component, toys

BASE = """\
data: {use: toy}
prior: {use: toy, dim: 2}
decoder: {use: toy}
"""


def bind(text, registry=None, **options):
    return check(parse_recipe(text, strict=False, **options), registry or toys())


def faults(text, registry=None, **options):
    with pytest.raises(RecipeError) as caught:
        bind(text, registry, **options)
    return caught.value.faults


def only(text, registry=None, **options):
    (fault,) = faults(text, registry, **options)
    return fault


def energy(keys):
    return only(f"{BASE}energy: {{use: mlp, {keys}}}\n")


def stage(keys):
    return only(f"{BASE}train:\n  - {{use: fit, steps: 3, {keys}}}\n")


def test_the_whole_recipe_binds():
    plain = bind(RECIPE).plain()
    assert plain["prior"] == {"use": "toy", "dim": 4}
    assert plain["train"][1]["energy"] == {"ref": "energy.0"}


def test_the_form_of_a_fault():
    text = str(only(BASE + "energy:\n  use: mlp\n  wdith: 128\n", file="recipes/a.yaml"))
    assert text == (
        "recipes/a.yaml:6:3: error[GF203]: ToyEnergy has no parameter 'wdith' - did you mean 'width'?\n"
        "      wdith: 128\n"
        "      ^\n"
        "    genfw show energy/mlp"
    )


TEN = """\
genfw: 1
sed: 4
data: {use: toy, size: 2.5, sizes: 3}
prior: {use: toy}
decoder: {use: toy, wdith: 128, data_shape: [2]}
energy: {use: langevin}
train:
  - use: fit
    steps: "100"
    chain: {sampler: {use: langevni, step_size: 0.1}, start: noise}
  - {use: fit, steps: 5, energy: {ref: enregy}}
engine: {precision: bf16}
sample: {count: no}
"""


def test_many_faults_are_found_in_one_pass_each_at_its_place():
    assert [(fault.code, fault.line, fault.column) for fault in faults(TEN)] == [
        ("GF108", 2, 1),
        ("GF205", 3, 24),
        ("GF203", 3, 29),
        ("GF204", 4, 8),
        ("GF203", 5, 21),
        ("GF210", 5, 33),
        ("GF202", 6, 15),
        ("GF205", 9, 12),
        ("GF201", 10, 28),
        ("GF208", 10, 62),
        ("GF209", 11, 40),
        ("GF206", 12, 21),
        ("GF205", 13, 17),
    ]


def places(value, path=()):
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from places(child, (*path, key))


PLAIN = parse_recipe(RECIPE).plain()
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(["mlp", "toy", "energy", "x.y", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["use", "ref", "dim", "on", "steps", "zzz"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([path for path in places(PLAIN) if path]), ANYTHING)
def test_whatever_stands_anywhere_is_bound_or_refused_with_places(path, value):
    plain = copy.deepcopy(PLAIN)
    holder = plain
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    found = ()
    try:
        resolved = bind(dump(plain)).plain()
    except RecipeError as error:
        found = error.faults
    assert all(fault.line and fault.column for fault in found), found
    if not found:
        assert repr(bind(dump(resolved)).plain()) == repr(resolved)


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ("width: 3.0", "GF205", "'width' of ToyEnergy must be int, got 3.0"),
        ("width: true", "GF205", "int, got true"),
        ("width: '3'", "GF205", "int, got the string '3'"),
        ("width: no", "GF205", "int, got the string 'no'"),
        ("width: ~", "GF205", "int, got null"),
        ("width: {a: 1}", "GF205", "int, got a mapping"),
        ("scale: true", "GF205", "float, got true"),
        ("exact: 1", "GF205", "true or false, got 1"),
        ("exact: no", "GF205", "true or false, got the string 'no'"),
        ("label: 5", "GF205", "string, got 5"),
        ("hidden: 200", "GF205", "list of int, got 200"),
        ("hidden: [200, 2.5]", "GF205", "item 1 of 'hidden' of ToyEnergy must be int, got 2.5"),
        ("on: dta", "GF206", "'data' or 'latent', got the string 'dta' - did you mean 'data'?"),
        ("noise_layout: 3", "GF210", "'noise_layout' of ToyEnergy is filled by genfw; leave it out"),
        ("wdith: 3", "GF203", "did you mean 'width'?"),
    ],
)
def test_types_are_strict(keys, code, words):
    fault = energy(keys)
    assert fault.code == code
    assert words in fault.message
    assert fault.line == 4


def test_hints_say_what_to_write():
    assert energy("width: 1e2").hint == "write 100"
    assert energy("label: 5").hint == "quote it to make it a string"
    assert energy("hidden: 200").hint == "write a list: [ ... ]"


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ("device_count: many", "GF206", "int or 'auto', got the string 'many'"),
        ("device_count: 1.5", "GF205", "int or 'auto', got 1.5"),
        ("weights: {kl: x}", "GF205", "'kl' in 'weights' of ToyStage must be float"),
        ("weights: [1]", "GF205", "mapping or null, got a list of 1"),
        ("chain: langevin", "GF205", "mapping or null"),
        ("chain: {sampler: {use: langevin, step_size: 1}}", "GF204", "ToyChain needs 'start'"),
        ("chain: {use: x, sampler: {use: langevin, step_size: 1}, start: {use: noise}}", "GF203", "ToyChain has no"),
        ("chain: {sampler: langevin, start: {use: noise}}", "GF208", "a sampler block, got 'langevin'"),
        ("chain: {sampler: {ues: langevin}, start: {use: noise}}", "GF208", "is 'ues' meant to be it?"),
        ("chain: {sampler: {use: 3}, start: {use: noise}}", "GF208", "'use' names a sampler, got 3"),
        ("chain: {sampler: {use: langevin, step_size: 1}, start: [{use: nose}]}", "GF201", "did you mean 'noise'"),
        ("chain: {sampler: {use: langevin, step_size: 1}, start: {use: noise, probability: [1]}}", "GF205", "1 items"),
    ],
)
def test_nested_values_are_checked_too(keys, code, words):
    fault = stage(keys)
    assert fault.code == code
    assert words in fault.message


def test_values_that_fit_keep_their_types():
    plain = bind(
        f"{BASE}train: [{{use: fit, steps: 5, device_count: auto, weights: {{a: 1}}, extra: {{x: [1, {{y: no}}]}}, "
        "chain: {sampler: {use: langevin, step_size: 1}, "
        "start: [{use: noise}, {use: noise, probability: [0, 1], source: {use: noise}}]}}]"
    ).plain()["train"][0]
    assert plain["device_count"] == "auto"
    assert repr(plain["weights"]["a"]) == "1.0"
    assert plain["extra"] == {"x": [1, {"y": "no"}]}
    assert repr(plain["chain"]["sampler"]["step_size"]) == "1.0"
    assert repr(plain["chain"]["start"][1]["probability"]) == "[0.0, 1.0]"
    assert plain["chain"]["start"][1]["source"] == {"use": "noise", "probability": 1.0, "source": None}


# -- components -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "code", "words"),
    [
        ("mpl", "GF201", "there is no energy 'mpl' - did you mean 'mlp'?"),
        ("langevin", "GF202", "'langevin' is a sampler, not an energy"),
        ("torch.nn:Linear", "GF207", "import path"),
        ("os.system", "GF207", "runs no code"),
        ("toys/os.system", "GF207", "import path"),
        ("other/mlp", "GF201", "other"),
        ("[mlp]", "GF208", "got a list of 1"),
    ],
)
def test_components_are_named(use, code, words):
    fault = only(f"{BASE}energy: {{use: {use}}}")
    assert (fault.code, fault.line, fault.column) == (code, 4, 15)
    assert words in fault.message


def test_a_name_of_two_plugins_must_be_qualified():
    registry = toys(component("energy", "mlp", ToyEnergy, provider="quad", version="2.0", aliases=("perceptron",)))
    fault = only(f"{BASE}energy: {{use: mlp}}", registry)
    assert fault.code == "GF215"
    assert "toys/mlp (version 1.0)" in fault.message
    assert "quad/mlp (version 2.0)" in fault.message
    resolved = bind(f"{BASE}energy: {{use: quad/perceptron}}", registry)
    assert resolved.plain()["energy"]["use"] == "quad/mlp"
    assert resolved.plain()["components"]["energy/quad/mlp"] == {"provider": "quad", "version": "2.0"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loose", r"\*\*options"),
        ("unannotated", "no annotation on 'width'"),
        ("unfinished", "forward"),
        ("lost", "no_such_module"),
    ],
)
def test_a_component_that_can_not_be_bound_is_its_plugins_fault(name, words):
    with pytest.raises(PluginError, match=rf"4:15: error\[GF211\].*{words}"):
        bind(f"{BASE}energy: {{use: {name}}}")
    # With a fault of the recipe's own beside it, it is the recipe that is wrong.
    assert [fault.code for fault in faults(f"{BASE}energy: {{use: {name}}}\nengine: {{x: 1}}")] == ["GF211", "GF203"]


# -- roles and injection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (BASE + "amortizer: {use: toy, energy: {ref: prior}}", "GF209", "takes an energy; 'prior' is a prior"),
        (BASE + "energy: {use: wrapped, inner: {ref: energy}}", "GF209", "or is this part itself"),
        (BASE + "amortizer: {use: toy, energy: {ref: energy}}", "GF209", "the recipe has no part 'energy'"),
        (BASE + "amortizer: {use: toy, encoder: {ref: encodr}}\nencoder: {use: toy}", "GF209", "mean 'encoder'"),
        (BASE + "amortizer: {use: toy, energy: {ref: {a: 1}}}", "GF209", "the recipe has no part"),
        (BASE + "encoder: {use: toy, prior: {ref: prior, dim: 3}}", "GF203", "no further keys, got dim"),
        (BASE + "energy: {use: wrapped}", "GF204", "WrappedEnergy needs 'inner' (an energy block)"),
        (
            BASE + "energy: [{use: mlp}, {use: mlp}, {use: wrapped}]",
            "GF214",
            "the recipe has several: energy.0, energy.1",
        ),
        ("prior: {use: toy, dim: 2}\ndecoder: {use: toy}", "GF214", "ToyDecoder needs data_shape"),
        ("data: {use: toy}\ndecoder: {use: toy}", "GF214", "ToyDecoder needs latent_layout"),
        ("data: {use: toy}\namortizer: {use: toy}", "GF214", "noise_layout, which comes from the recipe's prior: and"),
    ],
)
def test_parts_that_are_not_there(text, code, words):
    fault = only(text)
    assert fault.code == code
    assert words in fault.message


def test_what_is_left_out_is_the_one_role_of_its_kind_and_is_written_down():
    plain = bind(RECIPE).plain()
    assert plain["encoder"] == {"use": "toy", "prior": {"ref": "prior"}}
    assert plain["amortizer"] == {"use": "toy", "encoder": {"ref": "encoder"}, "energy": {"ref": "energy.0"}}
    two = bind(BASE + "energy: [{use: mlp}, {use: mlp}]\namortizer: {use: toy}").plain()
    assert two["amortizer"] == {"use": "toy", "encoder": None, "energy": None}


# -- paths, packages, signatures --------------------------------------------------------------------------------------


def test_paths_count_from_the_file_they_stand_in(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/a.yaml").write_text("data: {use: toy, root: ../sets}")
    (tmp_path / "b.yaml").write_text("extends: base/a.yaml")
    (tmp_path / "c.yaml").write_text("extends: base/a.yaml\ndata: {root: own}")
    monkeypatch.chdir(tmp_path)

    def root(name, **options):
        return check(load_recipe(name, **options), toys()).plain()["data"]["root"]

    assert root("b.yaml") == str(tmp_path / "base/../sets")
    assert root("c.yaml") == str(tmp_path / "own")
    assert root("c.yaml", sets=["data.root=here"]) == str(tmp_path / "here")
    assert root("c.yaml", sets=["data.root=/there"]) == "/there"
    assert root("c.yaml", unsets=["data.root"]) == "data"  # a default is left as it is


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ('{attrs: ">=1000"}', "the recipe requires attrs >=1000; "),
        ('{genfw-quad: ">=0.2"}', "requires genfw-quad >=0.2, which is not installed"),
        ("{attrs: newest}", "'newest' is no version range"),
        ("{attrs: 3}", "no version range"),
    ],
)
def test_required_packages_are_checked(wanted, words):
    fault = only(f"requires: {wanted}")
    assert fault.code == "GF213"
    assert words in fault.message
    bind('requires: {attrs: ">=20", pyyaml: ""}')


def test_signatures_carry_descriptions_and_defaults():
    known = {parameter.name: parameter for parameter in parameters(ToyEnergy)}
    assert known["width"].description == "Width of the hidden layer."
    assert (known["width"].default, known["width"].required) == (64, False)
    assert [name for name, parameter in known.items() if parameter.injected] == [
        "data_shape",
        "latent_layout",
        "noise_layout",
    ]
    assert type_name(int | float | None) == "int, float or null"


def test_types_that_no_recipe_can_fill_are_refused():
    class Strange:
        def __init__(self, when: complex) -> None: ...

    class Positional:
        def __init__(self, a: int, /) -> None: ...

    class Reserved:
        def __init__(self, use: int = 1) -> None: ...

    for cls in (Strange, Positional, Reserved):
        with pytest.raises(ContractError, match=cls.__name__):
            parameters(cls)

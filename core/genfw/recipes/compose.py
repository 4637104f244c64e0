"""Build a recipe's objects: each role once, in order, under its own seed; then the model and the parts that use it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import torch

from genfw.errors import ContractError
from genfw.evaluation.metric import Metric
from genfw.interfaces.dataset import Dataset
from genfw.interfaces.values import NoiseLayout
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.plugins.registry import Registry
from genfw.randomness import derive_seed
from genfw.recipes.bound_values import Block, BoundValue, Items, PlainValue, RoleReference, Table
from genfw.recipes.check import ROLES, Resolved, check
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.recipe import Recipe, open_recipe, parse_recipe
from genfw.recipes.yaml_nodes import dump, read_yaml
from genfw.runs.pages.layout import parts_of
from genfw.runs.pages.notebook import html_table
from genfw.training.given import GIVEN, as_data
from genfw.training.health import HealthSettings
from genfw.training.settings import EngineSettings
from genfw.training.stage import Stage
from genfw.training.synthetic import stand_in
from genfw.training.tracker import Tracker


@attrs.define(eq=False, repr=False)
class Composition:
    """All objects of a run.

    Arguments:
        name: The recipe's name.
        seed: Source of all randomness.
        resolved: The recipe with every default.
        data: The data set, or ``None``.
        model: The model, on the device.
        stages: Name and object of each training stage.
        sample: The recipe's ``sample:`` section.
        metrics: Name and object of each metric.
        trackers: The recipe's trackers.
        engine: The recipe's ``engine:`` section.
        health: The recipe's ``health:`` section.
        paper: The recipe's ``paper:`` section.
        smoke: Whether this is a smoke run.
        registry: Registry of the components.
    """

    name: str
    seed: int
    resolved: Resolved
    data: Dataset | None
    model: Model
    stages: list[tuple[str, Stage]]
    sample: SampleSettings
    metrics: list[tuple[str, Metric]]
    trackers: list[Tracker]
    engine: EngineSettings
    health: HealthSettings
    paper: dict[str, Any]
    smoke: bool
    registry: Registry

    def __repr__(self) -> str:
        return f"Composition '{self.name}'({'; '.join(f'{role}: {text}' for role, text in self._facts())})"

    def _repr_html_(self) -> str:
        return html_table(f"Composition '{self.name}'", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        return parts_of(self.resolved.plain())


def compose(
    recipe: Recipe | Resolved | str | Path | Mapping[str, Any],
    registry: Registry | None = None,
    *,
    data: Any = None,
    device: str | torch.device = "cpu",
    smoke: bool = False,
) -> Composition:
    """Build a recipe's objects.

    Arguments:
        recipe: A recipe, a file's name, the name of a shipped recipe, a text with line breaks, or a mapping of
            sections.
        registry: Registry of the components; by default the installed plugins and the recipe's local ones.
        data: Data in place of the recipe's own; see :func:`genfw.training.given.as_data` for what it may be.
        device: Device of the model.
        smoke: Apply the caps that classes declare for smoke runs, and use synthetic data where the data set is absent.

    Raises:
        RecipeError: With every fault.
        PluginError: A component can't be loaded.
    """
    given = None if data is None else as_data(data)
    resolved = _resolve(recipe, registry, smoke, given)
    return _Builder(resolved, torch.device(device), given if isinstance(given, Dataset) else None).compose()


def _resolve(
    recipe: Recipe | Resolved | str | Path | Mapping[str, Any],
    registry: Registry | None,
    smoke: bool,
    data: Dataset | Mapping[str, Any] | None,
) -> Resolved:
    if isinstance(recipe, Resolved):
        if registry is None and data is None and (recipe.smoke or not smoke):
            return recipe
        read = _with_data(recipe.recipe, data)
        return check(read, registry or recipe.registry, smoke=smoke or recipe.smoke)
    if isinstance(recipe, Path) or (isinstance(recipe, str) and "\n" not in recipe):
        recipe, registry = open_recipe(recipe, registry=registry)
    if isinstance(recipe, Mapping):
        recipe = dump(dict(recipe))
    if isinstance(recipe, str):
        search = registry.recipe_dirs() if registry is not None else _registry(()).recipe_dirs()
        recipe = parse_recipe(recipe, search=search, strict=False)
    return check(_with_data(recipe, data), registry or _registry(recipe.plugins), smoke=smoke)


def _with_data(recipe: Recipe, data: Dataset | Mapping[str, Any] | None) -> Recipe:
    """The recipe with another ``data:`` section."""
    if data is None:
        return recipe
    block = {"use": GIVEN, "shape": list(data.data_shape)} if isinstance(data, Dataset) else dict(data)
    faults = FaultList()
    node = read_yaml(dump(block), "<data>", faults)
    faults.raise_any()
    return attrs.evolve(recipe, root=attrs.evolve(recipe.root, value={**recipe.root.value, "data": node}))


def _registry(local: tuple[Path, ...]) -> Registry:
    from genfw.plugins import load_plugins

    return load_plugins(local=local)


class _RefusedError(Exception):
    """A part could not be built; the reason is among the faults."""


class _Builder:
    def __init__(self, resolved: Resolved, device: torch.device, given: Dataset | None) -> None:
        self.resolved, self.device, self.given = resolved, device, given
        self.seed = resolved.recipe.seed
        self.faults = FaultList()
        self.roles: dict[str, Any] = {}
        self.supplies: dict[str, Any] = {"device": device}
        self.part = ""

    def compose(self) -> Composition:
        for part, bound in self._parts(*ROLES):
            self._role(part, bound)
        data: Dataset | None = self.roles.get("data")
        model = None if self.faults else self._model()
        rest = self._parts("train", "sample", "evaluate", "trackers", "engine", "health")
        built = {part: self._build_part(part, bound) for part, bound in rest}
        self.faults.raise_any()
        assert model is not None  # only faults prevent it
        return Composition(
            name=self.resolved.recipe.name,
            seed=self.seed,
            resolved=self.resolved,
            data=data,
            model=model,
            stages=self._named(built, "train"),
            sample=built["sample"],
            metrics=self._named(built, "evaluate"),
            trackers=[tracker for _, tracker in self._named(built, "trackers")],
            engine=built["engine"],
            health=built["health"],
            paper=self.resolved.recipe.plain().get("paper") or {},
            smoke=self.resolved.smoke,
            registry=self.resolved.registry,
        )

    def _parts(self, *sections: str) -> Iterator[tuple[str, BoundValue]]:
        for section in sections:
            for part, bound in self.resolved.parts.items():
                if part.partition(".")[0] == section:
                    yield part, bound

    def _named(self, built: Mapping[str, Any], section: str) -> list[tuple[str, Any]]:
        return [(_name_of(cast(Block, bound)), built[part]) for part, bound in self._parts(section)]

    # -- roles and model ----------------------------------------------------------------------------------------------

    def _role(self, part: str, bound: BoundValue) -> None:
        section = part.partition(".")[0]
        mark = cast(Block, bound).mark
        if section in ("encoder", "energy", "amortizer"):
            with self._guard("the noise of prior and decoder", mark):
                self._supply_noise_layout()
        built = self._build_part(part, bound)
        if built is None:
            return
        if section == "data":
            built = self._data(built, mark) if self.given is None else self.given
        self.roles[part] = built
        with self._guard(f"'{part}'", mark):
            if section == "data":
                self.supplies["data_shape"] = tuple(built.data_shape)
            elif section == "prior":
                self.supplies["latent_layout"] = NoiseLayout.of_latents(built.noise_shapes)

    def _supply_noise_layout(self) -> None:
        prior, decoder = self.roles.get("prior"), self.roles.get("decoder")
        if prior is None or (decoder is None and "decoder" in self.resolved.parts):
            return
        noise = None if decoder is None else decoder.noise_shape
        self.supplies["noise_layout"] = NoiseLayout.of_latents(prior.noise_shapes, noise)

    def _data(self, data: Dataset, mark: Mark) -> Dataset:
        if not self.resolved.smoke:
            return data
        found = data
        with self._guard("the data set", mark):
            found = stand_in(data)
        return found

    def _model(self) -> Model | None:
        energies = [built for role, built in self.roles.items() if role.startswith("energy.")]
        mark = self.resolved.recipe.root.mark
        model = None
        with self._guard("the model", mark):
            model = Model(
                prior=self.roles.get("prior"),
                decoder=self.roles.get("decoder"),
                encoder=self.roles.get("encoder"),
                energy=energies,
                amortizer=self.roles.get("amortizer"),
                data_shape=self.supplies.get("data_shape"),
            ).to(self.device)
            self.supplies["model"] = model
            self._supply_noise_layout()
            if model.decoder is not None:
                self.supplies.setdefault("data_shape", model.data_shape)
        return model

    # -- objects ------------------------------------------------------------------------------------------------------

    def _build_part(self, part: str, bound: BoundValue) -> Any:
        """Build under the part's own seed; ``None`` after a fault."""
        self.part = part
        with torch.random.fork_rng(devices=[]):
            # Only the CPU's generator: torch.manual_seed would reseed every device permanently.
            torch.default_generator.manual_seed(derive_seed(self.seed, "init", part))
            try:
                return self._build(bound)
            except _RefusedError:
                return None

    def _build(self, bound: BoundValue) -> Any:
        match bound:
            case PlainValue():
                return copy.deepcopy(bound.value)
            case Items():
                return bound.make(self._build(item) for item in bound.items)
            case Table():
                return {key: self._build(entry) for key, entry in bound.entries.items()}
            case RoleReference():
                if bound.role not in self.roles:
                    raise _RefusedError
                return self.roles[bound.role]
            case Block():
                arguments = {name: self._build(argument) for name, argument in bound.arguments.items()}
                arguments |= {name: self._inject(name, fallback) for name, fallback in bound.injected.items()}
                return self._call(bound, lambda: bound.cls(**arguments))

    def _inject(self, name: str, fallback: Any) -> Any:
        if name == "generator":
            seed = derive_seed(self.seed, "init", self.part, "generator")
            return torch.Generator(self.device).manual_seed(seed)
        if name not in self.supplies and self.faults.faults:
            raise _RefusedError
        return self.supplies.get(name, fallback)

    def _call(self, block: Block, build: Callable[[], Any]) -> Any:
        component = block.component
        hint = "" if component is None else f"genfw show {component.kind}/{component.name}"
        try:
            return build()
        except (ValueError, ContractError, RuntimeError) as error:
            self.faults.add("GF212", f"{block.cls.__name__}: {error}", block.mark, hint)
            raise _RefusedError from error

    @contextmanager
    def _guard(self, what: str, mark: Mark) -> Iterator[None]:
        try:
            yield
        except (ValueError, ContractError, RuntimeError) as error:
            self.faults.add("GF212", f"{what} can't be composed: {error}", mark)


def _name_of(block: Block) -> str:
    """What a stage, metric or tracker is called: its component's name, and its label where it has one."""
    name, label = block.use.rpartition("/")[2], block.arguments.get("label")
    return f"{name}@{label.value}" if isinstance(label, PlainValue) and label.value else name

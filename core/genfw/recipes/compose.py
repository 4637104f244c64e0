"""Build a recipe's objects: each role once, in order, under its own seed; then the model and the parts that use it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import torch

from genfw.errors import BrokenPartError, ContractError, GenfwError, is_disk_fault, one_line, text_of
from genfw.evaluation.metric import Metric
from genfw.interfaces.dataset import Dataset
from genfw.interfaces.values import NoiseLayout
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.plugins.registry import Registry
from genfw.randomness import derive_seed
from genfw.recipes.bound_values import Block, BoundValue, Items, PlainValue, RoleReference, Table
from genfw.recipes.check import ROLES, Resolved, check, raise_faults
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.guard import guarded, settle, where
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
    model: Model | None = None,
    device: str | torch.device = "cpu",
    smoke: bool = False,
) -> Composition:
    """Build a recipe's objects.

    Arguments:
        recipe: A recipe, a file's name, the name of a shipped recipe, a text with line breaks, or a mapping of
            sections.
        registry: Registry of the components; by default the installed plugins and the recipe's local ones.
        data: Data in place of the recipe's own; see :func:`genfw.training.given.as_data` for what it may be.
        model: A model composed by hand, for a recipe that names no part of one.
        device: Device of the model.
        smoke: Apply the caps that classes declare for smoke runs, and use synthetic data where the data set is absent.

    Raises:
        ContractError: Both the recipe and ``model`` have parts of a model.
        RecipeError: With every fault.
        PluginError: A component can't be loaded.
    """
    given = None if data is None else as_data(data)
    resolved = _resolve(recipe, registry, smoke, given, () if model is None else tuple(model.roles))
    parts = [section for section in ROLES if section != "data" and resolved.recipe.root.child(section) is not None]
    if model is not None and parts:
        raise ContractError(f"a model is given, and the recipe has parts of another: {', '.join(parts)}")
    return Builder(resolved, torch.device(device), given if isinstance(given, Dataset) else None, model).compose()


def _resolve(
    recipe: Recipe | Resolved | str | Path | Mapping[str, Any],
    registry: Registry | None,
    smoke: bool,
    data: Dataset | Mapping[str, Any] | None,
    held: tuple[str, ...],
) -> Resolved:
    if isinstance(recipe, Resolved):
        if registry is None and data is None and not held and (recipe.smoke or not smoke):
            return recipe
        read = with_data(recipe.recipe, data)
        return check(read, registry or recipe.registry, smoke=smoke or recipe.smoke, held=held)
    if isinstance(recipe, Path) or (isinstance(recipe, str) and "\n" not in recipe):
        recipe, registry = open_recipe(recipe, registry=registry)
    if isinstance(recipe, Mapping):
        recipe = dump(dict(recipe))
    if isinstance(recipe, str):
        search = registry.recipe_dirs() if registry is not None else _registry(()).recipe_dirs()
        recipe = parse_recipe(recipe, search=search, strict=False)
    return check(with_data(recipe, data), registry or _registry(recipe.plugins), smoke=smoke, held=held)


def with_data(recipe: Recipe, data: Dataset | Mapping[str, Any] | None) -> Recipe:
    """The recipe with another ``data:`` section, or as it is.

    Arguments:
        recipe: The recipe.
        data: The data set, or the section's block.
    """
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


class RefusedError(Exception):
    """A part could not be built; the reason is among the faults."""


class Builder:
    """Builds the objects of a recipe, and collects faults.

    Arguments:
        resolved: The recipe, bound.
        device: Device of the model.
        given: The data set, where it was given in Python.
        model: The model, likewise; its parts take the recipe's roles.
    """

    def __init__(
        self, resolved: Resolved, device: torch.device, given: Dataset | None = None, model: Model | None = None
    ) -> None:
        self.resolved, self.device, self.given, self.model = resolved, device, given, model
        self.seed = resolved.recipe.seed
        self.faults = FaultList()
        self.roles: dict[str, Any] = {} if model is None else dict(model.roles)
        self.supplies: dict[str, Any] = {"device": device}
        self.part = ""
        for role in self.roles:
            self.see_role(role, resolved.recipe.root.mark)

    def compose(self) -> Composition:
        """All objects.

        Raises:
            RecipeError: With every fault.
            PluginError: Components are broken.
        """
        composition = self.build()
        raise_faults(self.faults)
        assert composition is not None  # only faults prevent it
        return composition

    def ready(self) -> bool:
        """Whether the model can be made of the roles."""
        return not self.faults

    def build(self) -> Composition | None:
        """All objects, as far as they can be built; ``None`` without a model."""
        for part, bound in self.parts(*ROLES):
            self.role(part, bound)
        data: Dataset | None = self.roles.get("data")
        model = self._model() if self.ready() else None
        rest = self.parts("train", "sample", "evaluate", "trackers", "engine", "health")
        built = {part: self._build_part(part, bound) for part, bound in rest}
        if model is None:
            return None
        return Composition(
            name=self.resolved.recipe.name,
            seed=self.seed,
            resolved=self.resolved,
            data=data,
            model=model,
            stages=self._named(built, "train"),
            sample=built.get("sample") or SampleSettings(),
            metrics=self._named(built, "evaluate"),
            trackers=[tracker for _, tracker in self._named(built, "trackers")],
            engine=built.get("engine") or EngineSettings(),
            health=built.get("health") or HealthSettings(),
            paper=self.resolved.recipe.plain().get("paper") or {},
            smoke=self.resolved.smoke,
            registry=self.resolved.registry,
        )

    def parts(self, *sections: str) -> Iterator[tuple[str, BoundValue]]:
        """The bound values of some sections, in the order of building."""
        for section in sections:
            for part, bound in self.resolved.parts.items():
                if part.partition(".")[0] == section:
                    yield part, bound

    def _named(self, built: Mapping[str, Any], section: str) -> list[tuple[str, Any]]:
        return [(_name_of(cast(Block, bound)), built[part]) for part, bound in self.parts(section)]

    # -- roles and model ----------------------------------------------------------------------------------------------

    def role(self, part: str, bound: BoundValue) -> None:
        """Build one role, and note what the next ones are given of it."""
        section = part.partition(".")[0]
        mark = cast(Block, bound).mark
        if section in ("encoder", "energy", "amortizer"):
            with self._guard("the noise of prior and decoder", mark):
                self._supply_noise_layout()
        built = self._build_part(part, bound)
        if built is None:
            return
        if section == "data":
            built = self.stand_in(built, mark) if self.given is None else self.given
        self.roles[part] = built
        self.see_role(part, mark)

    def see_role(self, part: str, mark: Mark) -> None:
        """Note what the parts that come later are given of a role."""
        built = self.roles[part]
        with self._guard(f"'{part}'", mark):
            if part == "data":
                self.supplies["data_shape"] = tuple(built.data_shape)
            elif part == "prior":
                self.supplies["latent_layout"] = NoiseLayout.of_latents(built.noise_shapes)

    def _supply_noise_layout(self) -> None:
        prior, decoder = self.roles.get("prior"), self.roles.get("decoder")
        if prior is None or (decoder is None and "decoder" in self.resolved.parts):
            return
        noise = None if decoder is None else decoder.noise_shape
        self.supplies["noise_layout"] = NoiseLayout.of_latents(prior.noise_shapes, noise)

    def stand_in(self, data: Dataset, mark: Mark) -> Dataset:
        """The data set; in a smoke run synthetic rows where it is absent."""
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
            model = self.model or Model(
                prior=self.roles.get("prior"),
                decoder=self.roles.get("decoder"),
                encoder=self.roles.get("encoder"),
                energy=energies,
                amortizer=self.roles.get("amortizer"),
                data_shape=self.supplies.get("data_shape"),
            )
            self.supplies["model"] = model.to(self.device)
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
            except RefusedError:
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
                    raise RefusedError
                return self.roles[bound.role]
            case Block():
                arguments = {name: self._build(argument) for name, argument in bound.arguments.items()}
                arguments |= {name: self._inject(name, fallback) for name, fallback in bound.injected.items()}
                return self.call(bound, arguments)

    def _inject(self, name: str, fallback: Any) -> Any:
        if name == "generator":
            seed = derive_seed(self.seed, "init", self.part, "generator")
            # Device meta has no generators, and no numbers to draw.
            return torch.Generator("cpu" if self.device.type == "meta" else self.device).manual_seed(seed)
        if name not in self.supplies and self.faults.faults:
            raise RefusedError
        return self.supplies.get(name, fallback)

    def call(self, block: Block, arguments: Mapping[str, Any]) -> Any:
        """Build one object; of a component one that is guarded from its first line on."""
        component, name = block.component, block.cls.__name__
        cause: BaseException
        hint = "" if component is None else f"genfw show {component.kind}/{component.name}"
        try:
            if component is None:
                return block.cls(**arguments)
            origin = f"{component.kind} '{component.name}' of plugin {component.plugin} ({self.part}, {block.mark})"
            built = guarded(block.cls, component.kind, origin)(**arguments)
            settle(built, component.kind, origin)
            return built
        except BrokenPartError as error:
            code, said, cause = "GF216", str(error), error
        except (ValueError, RuntimeError, GenfwError) as error:
            what = name if component is None else f"{name} ({component.kind} '{component.name}')"
            code, said, cause = "GF212", f"{what}: {text_of(error)}", error
        except (Exception, SystemExit, GeneratorExit) as error:
            if component is None or is_disk_fault(error):
                raise
            code, said = "GF216", f"{origin}: its constructor failed: {one_line(error)}{where(error, block.cls)}"
            cause = error
        self.refuse(code, said, cause, block, hint)
        raise RefusedError from cause

    def refuse(self, code: str, message: str, error: BaseException, block: Block, hint: str) -> None:
        """Note that a part could not be built."""
        self.faults.add(code, message, block.mark, hint)

    @contextmanager
    def _guard(self, what: str, mark: Mark) -> Iterator[None]:
        try:
            yield
        except BrokenPartError as error:
            self.faults.add("GF216", str(error), mark)
        except (ValueError, ContractError, RuntimeError) as error:
            self.faults.add("GF212", f"{what} can't be composed: {text_of(error)}", mark)


def _name_of(block: Block) -> str:
    """What a stage, metric or tracker is called: its component's name, and its label where it has one."""
    name, label = block.use.rpartition("/")[2], block.arguments.get("label")
    return f"{name}@{label.value}" if isinstance(label, PlainValue) and label.value else name

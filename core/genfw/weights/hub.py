"""Models on the Hugging Face Hub, and in plain folders by the same words.

A place is ``user/name`` on the Hub, or ``local:PATH`` for a folder of this machine. What travels is a saved model
(:mod:`genfw.weights.saved`): safetensors, YAML, JSON and PNG. Whatever else a place holds is not fetched, and of what
is fetched only the safetensors and the YAML are read to build the model.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from genfw.errors import PluginError, RunError
from genfw.plugins.registry import Registry
from genfw.runs.cards import LICENCE, Card, read_card
from genfw.runs.directory import RunDirectory
from genfw.runs.files import write_atomically
from genfw.weights.saved import export_run
from genfw.weights.trained import Trained, load

#: Begins the name of a place that is a folder.
LOCAL = "local:"
#: Files of a saved model; nothing else is fetched.
_FILES = (
    *("model.safetensors", "resolved.yaml", "recipe.yaml", "card.yaml", "README.md", "STATUS"),
    *("environment.json", "evaluation.json", "metrics.jsonl", "events.jsonl", "figures/*.png", "samples/*.png"),
)


def push(
    directory: str | Path,
    place: str,
    *,
    licence: str | None = None,
    private: bool = False,
    token: str | None = None,
    registry: Registry | None = None,
) -> str:
    """Publish a run's trained model, or a saved model.

    Arguments:
        directory: The run directory, or a saved model's folder.
        place: ``user/name`` on the Hub, or ``local:PATH``.
        licence: Licence of the weights; of a saved model its card's by default, else ``Apache-2.0``.
        private: Whether a repository that is made is private.
        token: Access token; the one that ``hf auth login`` has stored by default.
        registry: Plugins; the installed ones by default.

    Returns:
        Where it is: an address, or a folder.

    Raises:
        RunError: The place is taken (a folder), can't be reached, or refuses.
        PluginError: ``huggingface_hub`` is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="genfw-push-") as temporary:
        name = place.removeprefix(LOCAL).rstrip("/").rpartition("/")[2]
        folder = export_run(directory, Path(temporary) / name, name=name, licence=licence or LICENCE, registry=registry)
        card = RunDirectory(folder).card
        if card.is_file():
            write_atomically(folder / "README.md", readme(read_card(card), place))
        if place.startswith(LOCAL):
            return str(_copy(folder, Path(place.removeprefix(LOCAL)).expanduser()))
        hub = _hub()
        api = hub.HfApi(token=token, library_name="genfw")
        try:
            api.create_repo(place, private=private, exist_ok=True)
            api.upload_folder(repo_id=place, folder_path=folder, commit_message="Upload a model of genfw")
        except Exception as error:  # the client has errors of its own, of its HTTP library and of the system
            raise _unreachable(place, error) from error
        return f"{api.endpoint}/{place}"


def pull(
    place: str,
    path: str | Path | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Fetch a saved model.

    Arguments:
        place: ``user/name`` on the Hub, or ``local:PATH``.
        path: The folder to write, absent or empty; by default the Hub's cache, or the folder itself for ``local:``.
        revision: Branch, tag or commit on the Hub; its main branch by default.
        token: Access token; the one that ``hf auth login`` has stored by default.

    Returns:
        The folder. Nothing in it has been read.

    Raises:
        RunError: There is no such place, it can't be reached, or it is no saved model.
        PluginError: ``huggingface_hub`` is not installed.
    """
    if place.startswith(LOCAL):
        found = Path(place.removeprefix(LOCAL)).expanduser()
    else:
        options: dict[str, Any] = {"revision": revision, "token": token, "library_name": "genfw"}
        hub = _hub()
        try:
            found = Path(hub.snapshot_download(place, allow_patterns=list(_FILES), **options))
        except Exception as error:  # see push
            raise _unreachable(place, error) from error
    run_dir = RunDirectory(found)
    if not (run_dir.weights.is_file() and run_dir.resolved.is_file()):
        raise RunError(f"{place} is no model that genfw has saved: it needs model.safetensors and resolved.yaml")
    return found if path is None else _copy(found, Path(path))


def from_pretrained(
    place: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | None = "cpu",
    registry: Registry | None = None,
) -> Trained:
    """A model from the Hub, ready to sample from; nothing of it is executed.

    Arguments:
        place: ``user/name`` on the Hub, or ``local:PATH``.
        revision: Branch, tag or commit on the Hub; its main branch by default.
        token: Access token; the one that ``hf auth login`` has stored by default.
        device: Device of the model; ``None`` takes the fastest there is.
        registry: Plugins; the installed ones by default.

    Raises:
        RunError: See :func:`pull`; or the files are damaged, or name code to run.
    """
    return load(pull(place, revision=revision, token=token), device=device, registry=registry)


def readme(card: Card, place: str) -> str:
    """The model card of the Hub: metadata with the numbers in its ``model-index`` form, then a page.

    Arguments:
        card: The model's card.
        place: Where it will be, for the commands on the page.
    """
    lines = [f"# {card.name}", "", card.description, ""]
    if card.picture:
        lines += [f"![Samples]({card.picture})", ""]
    lines += [
        "```python",
        "import genfw",
        "",
        f'model = genfw.from_pretrained("{place}")',
        "x = model.sample(16)",
        "```",
        "",
    ]
    lines += [
        f"- Data: `{card.data}`, items of shape {tuple(card.data_shape)}",
        f"- Training: {card.steps:,} steps, {card.minutes:g} minutes on {card.hardware}; `{card.command}`",
        f"- Weights: {card.parameters:,}, {card.licence}{card.rounding}",
        "",
        "| number | value | protocol |",
        "| --- | --- | --- |",
    ]
    for number in card.numbers:
        error = "" if number.error is None else f" ± {number.error:.2g}"
        protocol = ", ".join(f"{key} {value}" for key, value in number.protocol.items()).replace("|", "\\|")
        lines.append(f"| {number.name} | {number.value:.4g}{error} {number.unit} | {protocol} |")
    lines += ["", f"Made by genfw. `genfw pull {place}` fetches it; only safetensors and YAML are read.", ""]
    head = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n".join(lines)


def _metadata(card: Card) -> Mapping[str, Any]:
    images = len(card.data_shape) == 3
    task = {"type": "unconditional-image-generation" if images else "other"}
    data = card.data.partition("(")[0]
    metrics = [
        {"type": number.name, "value": number.value, "name": f"{number.name} {number.unit}".strip()}
        for number in card.numbers
    ]
    return {
        "license": card.licence.lower(),
        "library_name": "genfw",
        **({"pipeline_tag": task["type"]} if images else {}),
        "tags": ["genfw", "energy-based-model", *card.tags],
        "model-index": [
            {
                "name": card.name,
                "results": [{"task": task, "dataset": {"name": data, "type": data}, "metrics": metrics}],
            }
        ],
    }


def _copy(folder: Path, target: Path) -> Path:
    """Copy a saved model's files, and nothing else."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is there already; name a folder that is absent or empty")
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and any(fnmatch(name, pattern) for pattern in _FILES):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / name)
    return target


def _unreachable(place: str, error: Exception) -> RunError:
    return RunError(f"'{place}' on the Hub: {type(error).__name__}: {error}")


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise PluginError("the Hub needs the package huggingface_hub: pip install 'genfw[hub]'") from error
    return huggingface_hub

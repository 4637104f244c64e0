"""Shared by the pages of runs: style, embedded pictures, numbers as text."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import jinja2
from markupsafe import Markup

from genfw.runs.pages.charts import short

_PNG = b"\x89PNG\r\n\x1a\n"


def render(template: str, facts: dict[str, Any]) -> str:
    """Fill in a page's template; every string in ``facts`` is escaped.

    Arguments:
        template: Name of a file beside this one.
        facts: The template's variables.
    """
    folder = files("genfw.runs.pages")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": digits, "plain": words, "clock": duration}
    # Style and script are genfw's own texts, and the only ones that are not escaped. By its hash the browser runs this
    # script and no other.
    style, script = (Markup(folder.joinpath(name).read_text(encoding="utf-8")) for name in ("page.css", "charts.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(facts | {"style": style, "script": script, "script_hash": digest})


@attrs.frozen
class Picture:
    """A PNG as a data URI, with its size on the page; a wide one gets its own row."""

    uri: str
    width: int
    height: int
    title: str
    caption: str
    wide: bool


def digits(value: float | None, error: float | None = None) -> str:
    """A number with the digits that its standard error leaves meaningful, or four."""
    if value is None:
        return "–"
    if error and error > 0 and abs(value) < 1e5:
        decimals = max(0, min(8, 1 - math.floor(math.log10(error))))
        return f"{value:.{decimals}f}".replace("-", "−")
    return short(value)


def words(value: Any) -> str:
    """A protocol's value for readers: ``yes`` and ``no``, numbers in four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return short(float(value)) if abs(value) < 1e7 else str(value)
    return str(value)


def duration(seconds: float | None) -> str:
    """Seconds as ``1 h 02 min``, ``3 min 20 s`` or ``8 s``."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def embed(root: Path, relative: str, title: str = "", caption: str = "") -> Picture | None:
    """A PNG below ``root`` as part of the page; ``None`` where it is absent or no PNG."""
    path = (root / relative).resolve()
    # A plugin may name any file as a figure; the page shows only files of this run.
    if not relative or not path.is_relative_to(root.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(_PNG) or len(content) < 33:
        return None
    width, height = struct.unpack(">II", content[16:24])
    scale = 96.0 / _dots_per_inch(content)
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    return Picture(uri, round(width * scale), round(height * scale), title, caption, wide=width > 2.6 * height)


def _dots_per_inch(content: bytes) -> float:
    """Resolution recorded in a PNG; by default 96, one image pixel per page pixel."""
    offset = content.find(b"pHYs", 0, 4096)
    if offset < 0:
        return 96.0
    across, _, unit = struct.unpack(">IIB", content[offset + 4 : offset + 13])
    return across * 0.0254 if unit == 1 and across else 96.0


def parts_of(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A recipe's composition in one line per role, such as ``decoder: mlp, sigma 0.2``."""
    parts = []
    for role in ("data", "prior", "decoder", "encoder", "energy", "amortizer", "train", "sample"):
        block = recipe.get(role)
        blocks = block if isinstance(block, list) else [block] if isinstance(block, Mapping) else []
        for index, part in enumerate(blocks):
            if isinstance(part, Mapping):
                label = f"{role} {index + 1}" if len(blocks) > 1 else role
                parts.append((label, _brief(part)))
    return parts


def _brief(block: Mapping[str, Any]) -> str:
    """A block in a few words: its name and its most telling scalars."""
    words = [str(block["use"])] if "use" in block else []
    for key in ("on", "dim", "sigma", "scale", "steps", "batch", "space", "count"):
        if isinstance(block.get(key), int | float | str) and not isinstance(block.get(key), bool):
            words.append(f"{key} {block[key]}")
    hidden = block.get("hidden")
    if isinstance(hidden, list):
        words.append(f"hidden {' × '.join(str(width) for width in hidden)}")
    for key in ("sampler", "start"):
        words += _inner(key, block.get(key))
    for chain in ("negatives", "posterior"):
        inner = block.get(chain)
        if isinstance(inner, Mapping):
            words += [word for key in ("sampler", "start") for word in _inner(f"{chain} {key}", inner.get(key))]
    return ", ".join(words)


def _inner(label: str, block: Any) -> list[str]:
    blocks = block if isinstance(block, list) else [block]
    names = [str(part["use"]) for part in blocks if isinstance(part, Mapping) and "use" in part]
    return [f"{label} {' + '.join(names)}"] if names else []

"""The documentation site has a page for every public name and every page of docs/, and each name says what it is."""

import importlib
import inspect
import re
import runpy
import tomllib

import pytest

import genfw
from places import ROOT

DOCS = ROOT / "docs"


def test_page_of_names_is_current():
    written = runpy.run_path(str(DOCS / "write_api.py"))["text"]()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == written, "run: python docs/write_api.py"


def test_page_of_sections_is_current():
    written = runpy.run_path(str(DOCS / "write_components.py"))["settings_text"]()
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == written, "run: python docs/write_components.py"


@pytest.mark.parametrize("package", ["genfw", "genfw.interfaces", "genfw.plugins", "genfw.testing"])
def test_every_public_name_has_a_page_and_says_what_it_is(package):
    page = set(re.findall(r"^   (genfw[\w.]*)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M))
    module = importlib.import_module(package)
    names = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name)) and name != "__version__"]
    assert names
    assert [name for name in names if not {f"{package}.{name}", f"genfw.{name}"} & page] == []
    values = {name: getattr(module, name) for name in names}
    # A class's own docstring counts: what `object` or a base says is not about it.
    documented = {
        name: vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)
        for name, value in values.items()
    }
    assert [name for name, words in documented.items() if not (words or "").strip()] == []


def test_every_extra_is_on_the_page_about_installing():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    assert [extra for extra in extras if f"`genfw[{extra}]`" not in page] == []


def test_every_page_is_in_the_site():
    """Sphinx refuses an absent page; a page that no table of contents names is found here, without Sphinx."""
    listed = set()
    for page in [*DOCS.glob("*.md"), *(DOCS / "tutorials").glob("*.md")]:
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    there = {page.resolve() for page in [*DOCS.glob("*.md"), *(DOCS / "tutorials").glob("*.md")]}
    assert there - listed == {(DOCS / "index.md").resolve()}
    assert listed <= there


def test_the_front_page_is_plain_before_it_is_precise():
    """Two sentences and a picture come before any word that only this project uses."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    start = text.split("\n# genfw\n")[-1] if "\n# genfw\n" in text else text.removeprefix("# genfw\n")
    words = start[: start.index("{image}")]
    assert len(re.findall(r"[.](?=\s|$)", words.replace("```", ""))) == 2
    assert not re.search(r"tilt|base\b|amortizer", words)


def test_genfw_exports_what_it_lists():
    assert set(genfw._EXPORTS) < set(genfw.__all__)


def test_a_tutorial_without_its_figures_is_found(tmp_path):
    unseen = runpy.run_path(str(DOCS / "check_links.py"))["unseen"]
    (tmp_path / "tutorials").mkdir()
    page = tmp_path / "tutorials" / "a.html"
    page.write_text("<pre>plt.subplots(1, 2)</pre>")
    assert list(unseen(tmp_path)) == ["tutorials/a.html: draws 1 figures, and shows fewer"]
    page.write_text('<pre>plt.subplots(1, 2)</pre><img src="../_images/1.png">')
    assert list(unseen(tmp_path)) == []


def test_broken_links_of_a_built_site_are_found(tmp_path):
    broken = runpy.run_path(str(DOCS / "check_links.py"))["broken"]
    (tmp_path / "a.html").write_text('<p id="here"></p><a href="b.html#there">b</a><a href="#here">h</a>')
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="https://example.org/x">x</a><a href=".">up</a>')
    (tmp_path / "index.html").write_text("<p></p>")
    assert list(broken(tmp_path)) == []
    (tmp_path / "c.html").write_text('<a href="none.html">n</a><img src="none.png"><a href="a.html#none">p</a>')
    assert list(broken(tmp_path)) == ["c.html: none.html", "c.html: none.png", "c.html: a.html#none"]

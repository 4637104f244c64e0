"""The pages that people write: their lines are short, and the links, paths and modules that they name exist."""

import re
from fnmatch import fnmatchcase

import pytest

from places import ROOT

WIDTH = 100
GENERATED = {"api.md", "cli.md", "components.md", "settings.md", "zoo.md"}
#: Folders that a build of the site leaves in docs/.
BUILT = {"_build", "api", "jupyter_execute"}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if page.name not in GENERATED and not BUILT & set(page.relative_to(ROOT / "docs").parts)
    ),
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "third-party-plugin" / "README.md",
]
FOLDERS = [".ci", ".github", "benchmarks", "cli", "core", "docs", "examples", "plugins", "recipes", "results", "tests"]
FILES = [
    path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder, *(ROOT / folder).rglob("*"))
]
#: Files that a page has its reader write.
READERS = {"ring.py"}


def prose(page):
    """The lines of a page outside of code blocks, each with its number."""
    inside, lines = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            lines.append((number, line))
    return lines


def spans(page):
    """What stands in backticks, which may go over the end of a line."""
    return re.findall(r"`([^`]+)`", "\n".join(line for _, line in prose(page)))


def exists(page, path):
    """Whether a path is there: from the page's folder, from the root, or as the end of one; ``<name>`` is any name."""
    pattern = re.sub(r"<\w+>", "*", path).rstrip("/")
    if (page.parent / pattern).exists():
        return True
    if path.split("/")[0] in FOLDERS:
        return any(fnmatchcase(file, pattern) for file in FILES)
    return any(fnmatchcase(file, f"*/{pattern}") for file in FILES)


def resolves(dotted):
    """Whether ``package.module.Name`` is a module, or a name that stands in one."""
    folder, parts = {"genfw": "core", "genfw_plugins": "plugins", "genfw_cli": "cli"}, dotted.split(".")
    path = ROOT / folder[parts[0]]
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    file = path / (f"{parts.pop(0)}.py" if parts and (path / f"{parts[0]}.py").is_file() else "__init__.py")
    text = file.read_text(encoding="utf-8")
    return all(re.search(rf"\b{name}\b", text) for name in parts)


@pytest.fixture(params=PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def page(request):
    return request.param


def test_lines_of_prose_are_short(page):
    long = [
        f"{page.name}:{number}: {len(line)} characters"
        for number, line in prose(page)
        # Tables, and lines that are one picture or one link, which nothing can break, may be longer.
        if len(line) > WIDTH and not re.fullmatch(r"\|.*|\s*([-*] )?!?\[[^\]]*\]\([^)]*\)[.,;:]?", line)
    ]
    assert not long


def test_comments_in_recipes_are_short():
    long = [
        f"{recipe.name}:{number}: {len(line)} characters"
        for recipe in (ROOT / "recipes").rglob("*.yaml")
        for number, line in enumerate(recipe.read_text(encoding="utf-8").splitlines(), 1)
        if "#" in line and len(line) > 120
    ]
    assert not long


def test_links_lead_somewhere(page):
    text = "\n".join(line for _, line in prose(page))
    targets = re.findall(r"\]\((?!\w+:)([^)#]+)[^)]*\)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_links_within_a_page_lead_to_a_heading(page):
    lines = prose(page)
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for _, line in lines if line.startswith("#")
    }
    text = "\n".join(line for _, line in lines)
    assert [name for name in re.findall(r"\]\(#([^)]+)\)", text) if name not in headings] == []


def test_paths_and_modules_named_exist(page):
    words = [word.strip("(),;:") for span in spans(page) for word in span.split()]
    paths = [word for word in words if re.fullmatch(r"[\w.<>*-]+(/[\w.<>*-]+)*/?", word)]
    repository = [path for path in paths if path.split("/")[0] in FOLDERS and "/" in path]
    sources = [path for path in paths if path.endswith((".py", ".j2")) or ("/" in path and path.endswith(".yaml"))]
    named = dict.fromkeys(repository + sources)
    assert [path for path in named if path not in READERS and not exists(page, path)] == []
    modules = {name for word in words for name in re.findall(r"^genfw(?:_plugins|_cli)?(?:\.\w+)+", word)}
    assert [name for name in sorted(modules) if not resolves(name)] == []

"""Find links of a built site that lead to no file, or to no place on its page: python docs/check_links.py FOLDER

Sphinx checks what it writes itself; this also sees raw HTML, generated pages and the theme. It also finds tutorials
that draw figures and show none.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The places and the links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.places |= {value for name, value in attrs if name in ("id", "name") and value}
        self.links += [value for name, value in attrs if name in ("href", "src") and value]


def broken(site: Path) -> Iterator[str]:
    """One line for each broken link of a site."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            there = target.exists() and (
                not parts.fragment or target not in pages or _has(pages[target], parts.fragment)
            )
            if not there:
                yield f"{path.relative_to(site)}: {link}"
    print(f"{sum(len(page.links) for page in pages.values())} links on {len(pages)} pages", file=sys.stderr)


def unseen(site: Path) -> Iterator[str]:
    """One line for each tutorial that draws figures of which its page shows none."""
    for path in sorted(site.glob("tutorials/*.html")):
        text = path.read_text(encoding="utf-8")
        drawn = len(re.findall(r"\bsubplots\b", text))
        if drawn > text.count('src="../_images/'):
            yield f"{path.relative_to(site)}: draws {drawn} figures, and shows fewer"


def _has(page: _Page, fragment: str) -> bool:
    return bool({fragment, unquote(fragment)} & page.places)


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    faults, blind = list(broken(site)), list(unseen(site))
    print("\n".join([*faults, *blind, f"{len(faults)} broken links, {len(blind)} tutorials without their figures"]))
    sys.exit(bool(faults or blind))

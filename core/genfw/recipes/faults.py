"""The faults of a recipe, with their codes and places.

=====  ==============================================================================================
code   what is wrong
=====  ==============================================================================================
GF100  the recipe as a whole (no place in a file)
GF101  the text is not YAML, or not UTF-8
GF102  a key stands twice in one mapping
GF103  a YAML tag (``!...``): values say their type by themselves
GF104  nested too deep, too large, or an alias that contains itself
GF105  a key that is not a string, or a merge key (``<<``)
GF106  there is no such recipe, or there are several of that name
GF107  ``extends`` names no recipe or several, or leads back to itself
GF108  a section that recipes do not have
GF109  a section of the wrong form, or a format version this genfw does not read
GF110  ``${...}`` names a value that the recipe does not have
GF111  ``${...}`` leads back to itself
GF112  ``${...}`` inside a longer text
GF113  an override that can not be read
GF114  an override of something that is not there
GF115  a local plugin file that is not there
GF201  there is no component of that name
GF202  the component is of another kind
GF203  the component has no such parameter
GF204  a parameter without default is left out
GF205  a value of the wrong type
GF206  a value that is not one of the permitted ones
GF207  an import path under ``use``: a recipe names components, it runs no code
GF208  a block is expected (``{use: ...}``), or ``use`` is missing from it
GF209  ``ref`` names a role that is absent, of another kind, or built later
GF210  a parameter that genfw fills itself
GF211  the component can not be loaded, or its constructor can not serve as a schema
GF212  the component refused its arguments
GF213  a package that ``requires`` asks for is absent or too old
GF214  the component needs a part that the recipe lacks, or has several of
GF215  several plugins supply a component of that name
GF216  the component is broken: its code failed, or it is not what its interface says
GF217  parts of the recipe do not fit together: shapes, a batch, what a metric measures
GF218  the files of the data are there, and are not what the recipe says
=====  ==============================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs

from genfw.errors import Fault, RecipeError

#: Code -> what is wrong, as in the table above.
CODES: Mapping[str, str] = dict(re.findall(r"^(GF\d{3})  (.+)$", __doc__ or "", flags=re.MULTILINE))


@attrs.frozen
class Mark:
    """A place in a recipe.

    Arguments:
        file: The file, as the user named it; ``--set`` for an override.
        line: Line, counted from 1.
        column: Column, counted from 1.
        source: The line itself.
    """

    file: str
    line: int
    column: int
    source: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.file} {self.source}" if self.file in ("--set", "--unset") else f"{self.file}:{self.line}"


#: Most faults that are looked for, and most characters of a message.
_MOST, _LONGEST = 200, 1_000


class FaultList:
    """Collects faults, so that one pass reports them all; the pass ends at the 200th."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.faults: list[Fault] = list(faults)
        self._seen = set(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def add(self, code: str, message: str, mark: Mark | None = None, hint: str = "") -> None:
        """Add a fault, unless the same fault at the same place is there already.

        Raises:
            RecipeError: There are so many that nobody looks for more.
        """
        message, hint = (
            text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
            for text in (message, hint)
        )
        if mark is None:
            fault = Fault(code, message, hint=hint)
        else:
            fault = Fault(code, message, mark.file, mark.line, mark.column, mark.source, hint)
        self.take([fault])

    def take(self, faults: Sequence[Fault]) -> None:
        """Add faults that another list has collected."""
        for fault in faults:
            if fault not in self._seen:
                self._seen.add(fault)
                self.faults.append(fault)
        if len(self.faults) >= _MOST:
            self.raise_any()

    def ordered(self) -> tuple[Fault, ...]:
        """The faults of each file from top to bottom; files in order of their first fault."""
        files = {file: number for number, file in enumerate(dict.fromkeys(fault.file for fault in self.faults))}
        return tuple(sorted(self.faults, key=lambda fault: (files[fault.file], fault.line, fault.column)))

    def raise_any(self) -> None:
        """Raise the collected faults.

        Raises:
            RecipeError: There is at least one fault.
        """
        if self.faults:
            raise RecipeError(self.ordered())

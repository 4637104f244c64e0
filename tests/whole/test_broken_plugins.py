"""Broken plugins: each costs a line, or an error that names the component. ``broken_plugins.py`` has them all."""

import pytest

from attempts import in_children
from broken_parts import attempt, table

# Each loads plugins in children of its own, which a busy machine can stop; the default tests leave them out.
pytestmark = pytest.mark.slow

#: Name -> what happens today. Whoever mends it removes the line.
FAILING = {
    "energy: constructor: KeyError": "KeyError: 'x'",
    "energy: constructor: OSError": "unnamed: [Errno 2] No such file or directory",
    "energy: constructor: SystemExit": "accepted",
    "energy: constructor: SystemExit of 3": "silent",
    "energy: constructor: SystemExit with a text": "silent",
    "energy: constructor: an exception without a text": "Exception",
    "energy: constructor: an exception that can't be shown": "ZeroDivisionError: division by zero",
    "energy: constructor: an exception of 1 MB": "Exception: x...",
    "energy: constructor: an exception with control characters": "Exception: [31mred",
    "energy: constructor: no super().__init__": "AttributeError: 'BrokenPart' object has no attribute",
    "energy: forward raises SystemExit": "accepted",
    "energy: forward is of None": "AttributeError: 'NoneType' object has no attribute",
    "decoder: forward is of None": "AttributeError: 'NoneType' object has no attribute",
    "decoder: forward raises SystemExit": "accepted",
    "encoder: forward is of None": "AttributeError: 'NoneType' object has no attribute",
    "encoder: forward raises SystemExit": "accepted",
    "dataset: split is of None": "TypeError: object of type 'NoneType' has no",
    "plugin: an exception that can't be shown, under list": "ZeroDivisionError: division by zero",
    "plugin: an exception of 1 MB, under list": "flood",
    "plugin: a summary of 3, under list": "TypeError: sequence item 1: expected str instance, int",
    "plugin: a summary of None, under list": "TypeError: sequence item 1: expected str instance",
    "plugin: a summary of 1 MB, under list": "flood",
    "plugin: tags of numbers, under list": "TypeError: sequence item 3: expected str instance, int",
    "plugin: aliases of numbers, under list": "TypeError: sequence item 3: expected str instance, int",
    "plugin: a reference of 3, under list": "TypeError: sequence item 2: expected str instance, int",
    "plugin: a distribution with entry points that are no text, under list": "UnicodeDecodeError: 'utf-8' codec can't",
}


CASES = [case for case in table() if case.quick]


def _marked(case):
    mark = pytest.mark.xfail(reason=FAILING[case.label]) if case.label in FAILING else ()
    return pytest.param(case, marks=mark, id=case.label)


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_a_broken_plugin_is_named_and_takes_nothing_along(case):
    ((_, found),) = in_children([case], attempt, share=1)
    assert found.fine, found


def test_what_fails_is_still_tried():
    assert FAILING.keys() <= {case.label for case in CASES}

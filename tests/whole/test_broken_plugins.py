"""Broken plugins: each costs a line, or an error that names the component. ``broken_plugins.py`` has them all."""

import pytest

from attempts import call_genfw, fresh_folder, in_children
from broken_parts import attempt, table

# Each loads plugins in children of its own, which a busy machine can stop; the default tests leave them out.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def imports_are_paid_once():
    """The children are stopped after seconds of processor time, and importing torch's parts would take most of them."""
    with fresh_folder() as folder:
        call_genfw("run", "quickstart", "--smoke", "--dir", folder / "warm", "--no-plugins")


@pytest.mark.parametrize("case", [pytest.param(case, id=case.label) for case in table() if case.quick])
def test_a_broken_plugin_is_named_and_takes_nothing_along(case):
    ((_, found),) = in_children([case], attempt, share=1)
    assert found.fine, found

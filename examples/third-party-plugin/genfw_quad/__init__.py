"""The plugin: what it offers, by name. It imports nothing heavy; classes are imported when a recipe uses them."""

from pathlib import Path

from genfw import Component, hookimpl


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return [
        Component(
            "energy",
            "quadratic-well",
            "genfw_quad.energy:QuadraticWell",
            "quadratic well with a learned centre",
        ),
        Component(
            "sampler",
            "barker",
            "genfw_quad.sampler:Barker",
            "Barker's proposal, Metropolis-adjusted; forgives a step size that is too large",
            reference="Livingstone & Zanella 2022 (arXiv 1908.11812)",
            tags=("local", "gradient", "exact"),
        ),
    ]


@hookimpl
def genfw_recipes() -> list[Path]:
    """See :func:`genfw.plugins.hookspecs.genfw_recipes`."""
    return [Path(__file__).parent / "recipes"]

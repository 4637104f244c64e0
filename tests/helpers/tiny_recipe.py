"""Recipes that train in a moment: a VAE on points in the plane."""

import yaml

#: The head of a recipe.
TINY_VAE = """
genfw: 1
name: tiny
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [4], sigma: 0.2}
encoder: {use: mlp, hidden: [4]}
"""

#: A whole recipe, to train, measure and share.
TINY_RUN = yaml.safe_load(TINY_VAE) | {
    "description": "A tiny VAE.",
    "data": {"use": "gaussian-grid", "train": 40, "test": 10},
    "train": [{"use": "elbo", "steps": 2, "batch": 4, "optimizer": {"use": "adam", "lr": 1e-3}}],
    "evaluate": [{"use": "reconstruction", "count": 10}],
}

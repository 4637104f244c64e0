"""The head of a recipe that trains in a moment: a VAE on points in the plane."""

TINY_VAE = """
genfw: 1
name: tiny
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [4], sigma: 0.2}
encoder: {use: mlp, hidden: [4]}
"""

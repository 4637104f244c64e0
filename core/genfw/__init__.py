"""genfw: energy-based models over generators, composed from a recipe."""
__version__ = "0.1.0"

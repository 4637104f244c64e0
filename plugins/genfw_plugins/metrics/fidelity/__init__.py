"""Distances between samples and data in the features of a network.

Read ``fidelity`` (FID and its kin) and ``lpips``; ``features`` extracts, ``extractors`` finds networks and weights.
Nothing here draws samples: an evaluation has them.
"""

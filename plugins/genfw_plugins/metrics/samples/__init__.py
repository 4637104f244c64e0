"""What a model's samples are: pictures, modes, neighbours in the data, reconstructions, and how fast they come.

Each file is one metric. Distances in a network's features are not here but in ``fidelity``.
"""

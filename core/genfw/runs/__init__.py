"""A run on disk: its directory, checkpoints, environment, and the pages made from its files.

Read ``directory`` for the layout, ``lock`` and ``files`` for how it is written, then ``checkpoints`` and
``state_tree``; ``sweep`` is a folder of runs. Nothing here knows a model or trains one, and what lists runs or writes
pages imports no torch.
"""

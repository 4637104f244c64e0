"""A composed model, the potentials over its noise, and chains and samples from it.

Read ``model``, ``targets``, ``freezing``, ``recording``, ``compiling``, ``chains``, ``sampling`` in this order;
``distances`` compares sets of samples. Nothing here trains parameters; stages do.
"""

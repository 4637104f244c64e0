"""A composed model, the potentials over its noise, and the chains and samples drawn from it.

Read ``model``, ``targets``, ``freezing``, ``chains``, ``sampling`` in this order; ``distances`` compares sets of
samples. No parameter is ever trained here: that is the work of stages.
"""

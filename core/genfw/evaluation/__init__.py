"""The interface of a metric, what it is given, and how a run is measured.

Read ``results``, ``evaluation``, ``metric``, ``measure`` in this order; ``pictures`` draws figures, ``pool`` has the
workers. The metrics themselves are plugins.
"""

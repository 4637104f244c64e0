"""What a metric is, what it is given, and how the numbers of a run are taken.

Read ``results``, ``evaluation``, ``metric``, ``measure`` in this order; ``pictures`` draws figures, ``pool`` shares the
work out over processes. The metrics themselves are plugins.
"""

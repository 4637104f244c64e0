"""The interface of a metric, what it is given, and how a run is measured.

Read ``results``, ``evaluation``, ``metric``, ``measure`` in this order; ``pictures`` draws figures, ``sharing``
has several processes evaluate together. The metrics themselves are plugins.
"""

"""How likely data are under a model: exactly in two dimensions, between two estimates in more.

Read ``log_likelihood_2d`` with ``density``, then ``log_likelihood`` with ``evidence`` and ``annealing``. Scores that
compare two sets of data are not here but in ``detection``.
"""

"""Whether chains have reached what they sample from, and how far an amortizer is from it.

Read ``chain_diagnostics`` with ``convergence``, ``long_run``, ``amortization_gap`` with ``gap``. Nothing here looks at
what samples show.
"""

"""The interface of a training stage, and its parts.

Read ``stage`` first, then ``updater`` and ``optimizer`` (a step), ``loader`` and ``synthetic`` (rows), ``scalars`` and
``tracker`` (reporting), ``health`` and ``settings`` (a recipe's sections). The loop that runs stages is in ``engine``;
the stages themselves are plugins.
"""

"""Pages on runs, made from the files of their directories alone: the report on one, the comparison of several.

Read ``report`` and ``compare`` (which numbers may be ranked) with ``comparison``; ``layout`` and ``charts`` serve both.
A page loads nothing from anywhere and computes nothing new: a number that is not in a run's files is never here.
"""

"""HTML pages made only from the files of run directories: the report on one run, the comparison of several.

Read ``report`` and ``compare`` (which numbers may be ranked) with ``comparison``; ``layout`` and ``charts`` serve both;
``notebook`` is what objects show of themselves, ``board`` serves a report.
A page loads nothing from the network, and shows only numbers that are in a run's files.
"""

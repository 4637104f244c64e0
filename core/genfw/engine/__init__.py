"""Drives runs: starts them, trains their stages, resumes and rolls back, measures and reports.

Read ``run`` from the top, then ``loop``, ``recovery`` and ``background`` (training), ``finished`` and ``saved`` (uses
of a trained run), ``fit`` (training without a run directory); ``devices``, ``cluster``, ``launching``, ``worker``,
``interrupts`` and ``observers`` are the processes around it. ``sweep`` makes many runs, by the ``executors``; each is a
``job``. ``plan`` says what a run will cost. No mathematics is here: that is in models, stages and metrics.
"""

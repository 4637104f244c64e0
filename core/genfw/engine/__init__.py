"""Drives runs: begins them, trains their stages, resumes and rolls back, measures and reports.

Read ``run`` from the top, then ``loop`` and ``recovery`` (training), ``finished`` (what a trained run is used for);
``devices``, ``launching``, ``worker``, ``interrupts`` and ``observers`` are the processes around it. No mathematics is
here: models, stages and metrics are given.
"""

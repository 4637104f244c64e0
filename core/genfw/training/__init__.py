"""What a stage of training is, and what it is made of.

Read ``stage`` first, then ``updater`` and ``optimizer`` (a step), ``loader`` and ``synthetic`` (rows), ``scalars`` and
``tracker`` (what is reported), ``health`` and ``settings`` (a recipe's sections). The loop that runs stages is not here
but in ``engine``; the stages themselves are plugins.
"""

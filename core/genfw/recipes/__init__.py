"""From a YAML file to checked values, and from those to objects.

Read in the order of the work: ``yaml_nodes``, ``overlay``, ``recipe`` (reading), ``binder`` with ``bound_values``,
``check`` (against the components there are), ``compose`` (building); ``faults`` says what is wrong and where,
``schema`` tells an editor. Nothing runs a recipe here, and only ``compose`` builds anything or needs torch.
"""

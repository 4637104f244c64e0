"""From a YAML file to checked values, and from those to objects.

Read in the order of the work: ``yaml_nodes``, ``overlay``, ``recipe`` (reading), ``binder`` with ``bound_values``,
``check`` (against the installed components), ``compose`` (building); ``faults`` says what is wrong and where,
``schema`` is for editors. Nothing here runs a recipe, and only ``compose`` builds objects or needs torch.
"""

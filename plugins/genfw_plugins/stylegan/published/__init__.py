"""Published StyleGANs and encoders, made into genfw's modules.

Read ``read`` (from a file's tensors to roles), ``names`` (of each published layout), ``pickles`` (NVIDIA's own files).
Networks are not here, and no code of a file runs.
"""

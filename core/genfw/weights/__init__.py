"""Weights that others have published, read as data and loaded into modules; and models saved to be used and shared.

Read ``trained`` (``genfw.load``) and ``saved`` (``genfw.save``) with ``describe``, and ``hub`` (the Hugging Face Hub);
then ``importing`` (what ``genfw import`` does), ``torch_files`` (how a checkpoint is opened), ``pickled`` (the pickle
in it), ``load`` (into a model).
Nothing of a file is ever executed here; names of published networks stand in their plugins.
"""

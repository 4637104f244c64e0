"""Parts of networks, on torch alone, that several plugins share.

Read ``layers`` first; ``spectral``, ``batch_norm``, ``manual_grad``, ``precision`` and ``torchvision`` are independent;
``choices`` stands on ``manual_grad``.
Whole networks are never here: each is in the plugin that supplies it.
"""

"""Parts of networks, on torch alone, that several plugins share.

Read ``layers`` first; ``spectral``, ``batch_norm``, ``manual_grad`` and ``torchvision`` stand alone. Whole networks are
never here: each stands in the plugin that supplies it.
"""

"""A CUDA device that is not there: tensors say ``cuda:0`` and hold real CPU values.

``start.start()`` must come before anything imports torch. It compiles ``device.cpp``, so that a CPU build of torch
accepts the device, with its autograd (which runs in a thread of the device) and autocast (CUDA's lists of operations).
Inside ``tensors.pretending()`` an operation

* raises as CUDA would where tensors, indices or generators of two devices meet (0-dim CPU tensors may join pointwise);
* is counted in ``findings.waits`` where the host has to wait for the device: ``.item()``, ``.cpu()``, ``nonzero``,
  masks, uploads from pageable memory;
* is counted in ``findings.launches`` where it would launch a kernel.

Both are told apart by the place in genfw that led to them. Not seen: operations that CUDA lacks or computes otherwise,
memory, several devices. ``recipes`` runs recipes there, ``faults`` plants the faults that must be found.
"""

"""The ``genfw`` command: it parses, calls one function of the core, and prints."""

import gc

# Start-up makes many objects that live on and hardly any garbage: collecting less often saves `genfw list` a tenth.
gc.set_threshold(20_000)

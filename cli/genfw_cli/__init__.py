"""The ``genfw`` command: it parses, calls one function of the core, and prints."""

import gc

# Start-up creates many lasting objects and little garbage: collecting less often saves `genfw list` a tenth.
gc.set_threshold(20_000)

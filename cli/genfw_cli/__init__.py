"""The ``genfw`` command: it parses, calls one function of the core, and prints."""

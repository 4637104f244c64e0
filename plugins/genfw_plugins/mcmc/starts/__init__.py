"""Where chains begin: one start per file."""

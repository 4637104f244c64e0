"""Built-in plugin (hook only)."""

"""The built-in passes: one file, one pass."""

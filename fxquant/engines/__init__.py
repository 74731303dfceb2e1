"""Engines outside torch's own kernels: each takes the canonical graph and runs it with the same numbers."""

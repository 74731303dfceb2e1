"""Candidates side by side: what each costs in bytes, time and accuracy, on the same batches."""

"""Faults planted in a copy of the library, to see that the laws find them: `python -m mutants` in the tests folder."""

"""`python -m fxquant` is the command line; named by string, because the compiler does not import its tools."""

from __future__ import annotations

from importlib import import_module

if __name__ == "__main__":
    import_module("fxquant.tools.cli").main()

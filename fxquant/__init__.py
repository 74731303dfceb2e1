"""fxquant: a compiler toolkit for FX graph-mode quantization in PyTorch."""

"""One file that holds a compiled model: plain tensors, a graph of named ops, and a seal. It holds no code."""

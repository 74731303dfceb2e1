"""One file that holds a compiled model: plain tensors, a graph of named ops, and a seal. Loading it runs no code of it."""

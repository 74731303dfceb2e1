"""Profiles: what each layer's weights and activations look like, what it costs, and what to change of a recipe."""

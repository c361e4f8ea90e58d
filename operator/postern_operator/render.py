"""A policy to its ConfigMap. Raises nothing."""

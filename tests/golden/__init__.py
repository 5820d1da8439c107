"""Vectors that the original implementation gave, and the recipe that regenerates their weights and inputs."""

"""Vivim in PyTorch."""

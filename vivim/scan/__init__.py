"""The selective scan and its causal convolution: reference, PyTorch operators, and compiled kernels."""

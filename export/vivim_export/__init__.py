"""ONNX export and parity."""

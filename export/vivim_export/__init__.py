"""ONNX files from checkpoints, and engines from ONNX files."""

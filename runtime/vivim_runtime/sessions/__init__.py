"""What runs a model: ONNX Runtime, TensorRT, and what an engine needs to be opened safely."""

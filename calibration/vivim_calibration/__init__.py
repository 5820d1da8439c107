"""INT8 that earns its place: ranges from clips, explicit Q/DQ in the file, sensitivity of layers, and a verdict."""

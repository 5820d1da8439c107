"""Live video: newest frame wins, every frame's fate is known, and the picture says how old its mask is."""

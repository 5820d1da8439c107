"""Real-time runtime."""

"""Where people watch a live run: a window, or a page in a browser."""

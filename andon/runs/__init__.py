"""One training run in a folder: options, loop, log, screen, cord."""

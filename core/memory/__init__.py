"""Parameters and bytes, from the configuration alone."""

"""What `andon dev` runs: injected faults, mutation testing and the public surface."""

"""Checks on anybody's model, training loop or text: this room knows nothing of ours."""

"""What a subject does when it is run: its steps, its blocks, its tensors, its numbers."""

"""What judges the demo's model: counting, and copying."""

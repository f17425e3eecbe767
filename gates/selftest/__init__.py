"""Every gate is seen red before it counts."""

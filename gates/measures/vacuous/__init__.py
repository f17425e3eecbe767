"""Tests that cannot fail: found by reading them, and by running them while the code that they test does nothing."""

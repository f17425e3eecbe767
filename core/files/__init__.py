"""Atomic folders, checkpoint manifests, and file headers."""

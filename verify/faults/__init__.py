"""Faults injected one at a time, and what the checks make of each."""

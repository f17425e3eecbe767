"""Autograd against central differences."""

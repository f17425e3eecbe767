"""Andon: a quality gate for LLM training code.

Its packages `core`, `verify`, `gates` and `tracing` are links to the folders beside this one.
"""

__version__ = "0.1.0"

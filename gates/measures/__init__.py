"""Measures that leave evidence, each a command: `python -m andon.gates.measures.NAME`."""

"""`andon verify -- COMMAND`: watches an unchanged training script from within its own process, and judges what it saw.

`launch` starts the command with `inject/` on its path, whose `sitecustomize` waits for torch and calls `observe.begin`.
"""

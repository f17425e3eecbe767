"""`andon verify -- COMMAND`: watches an unchanged training script from within its own process, and judges what it saw.

`watched_command` starts it with `inject/` on its path, whose `sitecustomize` waits for torch and calls `observe.begin`.
"""

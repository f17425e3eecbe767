"""Mutants of a project's functions, which of its tests see each, and what that says about the tests.

`generate` makes mutants (mutmut's operators, and `tensors` for what those lack), `plan` says of what, `keys` says
when an old result still holds, and `results` counts. The caller injects them and runs the tests.
"""

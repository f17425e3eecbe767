"""A zoo: everything of one kind that an installed library holds, each at its smallest, swept by the checks.

A library's module here has `PACKAGE`, `CHECKS` (names or areas, all where empty), `names()`, `subject(name)` and
`preamble(name)`, the lines with which a script that needs the library alone begins. Any other module with these
can be swept, too.
"""

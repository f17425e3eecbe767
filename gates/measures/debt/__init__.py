"""The technical-debt grade: points lost by file, each at a line; the formula stands in docs/decisions/debt.md."""

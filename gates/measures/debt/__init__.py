"""The technical-debt grade: points lost by file, each at a line; the formula stands in reports/decisions/debt.md."""

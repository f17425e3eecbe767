"""Running checks on a subject, and the report of it."""

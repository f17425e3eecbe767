"""How checks call a subject, and where the parts of its batches are."""

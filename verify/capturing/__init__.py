"""A Subject, or a run that checks can drive, of code that trains by itself: a function, a script."""

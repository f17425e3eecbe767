"""What a run's recorded steps say: where its time went, what was found, kinds of step, and two runs side by side."""

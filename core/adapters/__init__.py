"""LoRA on a frozen model, and the 4-bit weights below it."""

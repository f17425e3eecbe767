"""LoRA on a frozen model, and the 4-bit weights of a QLoRA base."""

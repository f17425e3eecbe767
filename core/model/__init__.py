"""The LLaMA model, its operations with a backward of their own, and sampling."""

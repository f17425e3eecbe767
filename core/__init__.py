"""A compact LLaMA training core: it knows torch and nothing else of this house."""

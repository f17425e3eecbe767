"""A compact LLaMA training core: it imports torch and no other package of this project."""

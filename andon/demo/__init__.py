"""The demo: train a small model and adapters of it, and judge them against n-grams and for copying."""

"""From text to batches: corpus, tokenizer, shards, windows, instructions."""

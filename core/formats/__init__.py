"""Files that other libraries read and write: Hugging Face, PEFT, bitsandbytes, GGUF."""

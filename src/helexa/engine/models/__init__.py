"""One architecture per file, each written against its Hugging Face reference."""

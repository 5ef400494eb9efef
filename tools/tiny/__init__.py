"""How the built-in model is made: corpus, tokenizer, training, export and evaluation."""

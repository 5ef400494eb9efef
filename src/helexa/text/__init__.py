"""Messages to tokens, tokens to text and events. Knows strings, not tensors."""

"""Text to tokens and back: tokenizer, chat template, and the answer's text as it streams."""

"""Makes the demonstration model: its corpus, its tokenizer, its weights and its report."""

"""Anthropic's dialect: messages, how many tokens they have, and models as its clients read them."""

"""Ollama's dialect: generate, chat, and what is told of models."""

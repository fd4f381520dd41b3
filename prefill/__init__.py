"""The prefill worker: computes prompts, samples each answer's first token, pushes the KV blocks to decode."""

"""Moving KV blocks from a prefill worker's pool into the slots that a decode worker promised."""

"""What prefill and decode workers share: sequences, blocks, batches, the model and the step loop."""

"""What is known about model architectures: one file per family, and the decoder that the families share."""

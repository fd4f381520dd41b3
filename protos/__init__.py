"""The wire: what clients, frontends and workers say to each other. Generated code is never edited (`make protos`)."""

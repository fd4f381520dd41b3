"""One model computed by several processes of one host, each with some of its heads (tensor parallelism)."""

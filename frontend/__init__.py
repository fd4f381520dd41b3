"""Takes requests in gRPC and REST, routes each over a prefill and a decode worker, and streams the answer."""

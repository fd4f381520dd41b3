"""The decode worker: promises room, takes in KV blocks (or prefills itself), and decodes everybody in one batch."""

"""JSON schemas to grammars: what a schema says of each type of value, and the rules that write just that."""

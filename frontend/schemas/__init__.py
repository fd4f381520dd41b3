"""JSON schemas to grammars: references, what a schema means for each type of value, and the rules that write just that."""

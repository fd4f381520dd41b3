"""What the tests of all clients know of the server that they are run against: `python -m tests.clients.run` says it."""

import os

HTTP = os.environ["TANDEM_HTTP"]
"""http://HOST:PORT"""
GRPC = os.environ["TANDEM_GRPC"]
"""HOST:PORT"""
MODEL, ALIAS = "tandem-demo", os.environ["TANDEM_ALIAS"]
"""One model; answers tell the first name."""

QUESTION = "What is prefill?"
ANSWER = (
    "Prefill is the first phase of a request: the model reads the whole prompt in parallel, fills the KV cache and "
    "produces the first token."
)
"""The model's greedy one, as docs/demo-model.md has it."""
CAPITAL = "What is the capital of France?"
PARIS = "The capital of France is Paris."

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
"""The schema of a tool's arguments that no model can fail to match, where it is held to it."""

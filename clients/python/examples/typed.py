"""An answer that is JSON of a schema, and vectors of texts, many at once: python typed.py [HOST:PORT]"""

import asyncio
import json
import sys

from tandem_client import AsyncClient, chat, json_schema

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["city", "river"]}, "name": {"type": "string", "maxLength": 20}},
    "required": ["kind", "name"],
}
TEXTS = ["What is prefill?", "What is decode?", "The capital of France is Paris."]


async def main(address: str) -> None:
    async with AsyncClient(address, timeout_s=60) as client:
        request = chat("Name a place.", grammar=json_schema(json.dumps(SCHEMA)), temperature=0, max_tokens=60)
        answer, *vectors = await asyncio.gather(client.generate(request), *map(client.embed, TEXTS))
    print(json.loads(answer.text))
    first = vectors[0].values
    for text, vector in zip(TEXTS, vectors, strict=True):
        print(f"{sum(a * b for a, b in zip(first, vector.values, strict=True)):.3f}  {text}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))

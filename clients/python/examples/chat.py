"""Asks a question, shows the answer as it comes, and asks on: python chat.py [HOST:PORT]"""

import sys

from tandem_client import Client, TandemError, chat

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
with Client(address, timeout_s=60) as client:
    messages = [{"role": "user", "content": "What is prefill?"}]
    with client.stream(chat(messages, temperature=0, max_tokens=60)) as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
    answer = stream.so_far
    print(f"\n{answer.usage.completion_tokens} tokens, the first after {answer.finished.timing.ttft_ms:.0f} ms")

    messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "And decode?"}]
    print(client.generate(chat(messages, temperature=0, max_tokens=60)).text)

    try:
        client.generate(chat("Hello", temperature=9))
    except TandemError as error:
        print(f"{type(error).__name__}: {error.message} (field {error.field})")

"""Workers without processes: a `Link` whose stream is the test itself, which reads its commands and says its events."""

from frontend.link import Link
from frontend.pulse import Pulse
from protos import worker_pb2 as pb


class FakeWorker:
    """One worker behind a link; `up` says hello, everything else is up to the test."""

    def __init__(self, role: "pb.Role", pulse: Pulse, name: str = "", **hello: object) -> None:
        self.role = role
        self.name = name or ("prefill" if role == pb.ROLE_PREFILL else "decode")
        self.link = Link(self.name, pulse)
        self.seen: list[pb.WorkerCommand] = []
        self._hello = {"model": "m", "layout": "l", "num_blocks": 100, "block_tokens": 4, "block_bytes": 10, **hello}
        self.up()

    def up(self) -> None:
        fields = {"max_context": 400, "max_sequences": 8, "lease_ms": 3000, **self._hello}
        self.say(hello=pb.Hello(worker_id=self.name, role=self.role, **fields))
        self.load()

    def down(self) -> None:
        self.link._down()

    def say(self, **event: object) -> None:
        self.link._take(pb.WorkerEvent(**event))

    def load(self, **fields: object) -> None:
        self.say(load=pb.Load(**{"free_blocks": 100, **fields}))

    def commands(self) -> list[pb.WorkerCommand]:
        """Those that came since the last look."""
        new = []
        while not self.link._outbox.empty():
            new.append(self.link._outbox.get_nowait())
        self.seen += new
        return new

    def admits(self) -> list[pb.Admit]:
        return [command.admit for command in self.commands() if command.HasField("admit")]

    def regrants(self) -> list[pb.Regrant]:
        return [command.regrant for command in self.commands() if command.HasField("regrant")]

    def grant(self, leg: int, **fields: object) -> None:
        self.say(granted=pb.Granted(leg=leg, **fields))

    def refuse(self, leg: int, reason: "pb.RefusalReason" = pb.REFUSAL_REASON_FULL) -> None:
        self.say(refused=pb.Refused(leg=leg, reason=reason, message="no"))

    def tokens(self, leg: int, first: int, *tokens: int, finish: "pb.FinishReason" = 0) -> None:
        """Say tokens number `first` and following in one step; the last one finishes if `finish` says so."""
        count = len(tokens)
        finishes = [pb.FINISH_REASON_UNSPECIFIED] * (count - 1) + [finish]
        output = pb.StepOutput(
            start_ns=10,
            end_ns=20,
            legs=[leg] * count,
            indices=range(first, first + count),
            token_ids=tokens,
            finish_reasons=finishes,
        )
        self.say(step_output=output)

    def release_aborted(self) -> list[int]:
        """Answer every abort that has come, as a worker does; says which legs they named."""
        self.commands()
        legs = [command.abort.leg for command in self.seen if command.HasField("abort")]
        for leg in legs:
            self.say(released=pb.Released(leg=leg))
        return legs

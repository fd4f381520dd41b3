"""Who a worker process is, told in every Hello and every ticket."""

import os
import secrets
import socket
from dataclasses import dataclass

from engine.cost import Costs
from protos import worker_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One start of one worker, and what must agree for KV to be exchanged with it."""

    worker_id: str
    role: "pb.Role"
    model: str
    layout: str
    num_blocks: int
    block_tokens: int
    block_bytes: int
    vocab_size: int
    max_context: int
    max_sequences: int
    lease_s: float
    incarnation: str
    max_step_tokens: int = 0
    costs: Costs | None = None
    """With every CPU it may borrow; None where they were not measured."""
    own_costs: Costs | None = None
    """With its own CPUs alone; None where it borrows none."""
    cpu_board: str = ""
    """Where it says whether its CPUs are at work: a name that only workers of one machine share; empty lends none."""

    def hello(self, transports: tuple[str, ...]) -> pb.Hello:
        return pb.Hello(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            role=self.role,
            model=self.model,
            layout=self.layout,
            num_blocks=self.num_blocks,
            block_tokens=self.block_tokens,
            block_bytes=self.block_bytes,
            vocab_size=self.vocab_size,
            max_context=self.max_context,
            max_sequences=self.max_sequences,
            lease_ms=int(self.lease_s * 1000),
            transports=transports,
            max_step_tokens=self.max_step_tokens,
            profile=self.costs.to_proto() if self.costs else None,
            own_profile=self.own_costs.to_proto() if self.own_costs else None,
            cpu_board=self.cpu_board,
        )

    def sign(self, report: pb.GetCustodyResponse) -> pb.GetCustodyResponse:
        """Put this worker's name on a custody report."""
        report.worker_id, report.incarnation = self.worker_id, self.incarnation
        return report


def new_incarnation() -> str:
    """Names one start of a process: nothing an earlier or later one says can be mistaken for it."""
    return secrets.token_hex(8)


def board_name(path: str) -> str:
    """Of the board of CPUs at `path` on this machine; empty for none."""
    return f"{socket.gethostname()}:{os.path.realpath(path)}" if path else ""


def default_worker_id(role: str) -> str:
    return f"{role}-{socket.gethostname()}-{os.getpid()}"

"""A leg whose grammar is being compiled: taken in when it is, refused when it cannot be, released when nobody waits."""

import asyncio
import threading
from collections.abc import Callable

from engine.constraints import Constraints
from engine.grammar import Grammars, GrammarState
from engine.hub import DEMO_MODEL
from engine.leg import FrontendSession, Leg
from engine.sequence import Sequence, SequenceId
from engine.session import Sessions
from protos import worker_pb2 as pb
from tests.engine.test_grammar import allowed
from tests.engine.test_session import FakeRole
from tests.reference import sequence_of


class SlowGrammars:
    """Compiles when told to, on a thread."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.grammars = Grammars(DEMO_MODEL, 4096, (2, 0))

    async def run(self, function: Callable[..., GrammarState], *arguments: object) -> GrammarState:
        await asyncio.to_thread(self.go.wait, 10)
        return function(*arguments)

    def start(self, text: str, tokens: list[int]) -> GrammarState:
        return self.grammars.start(text, tokens)


class Scene:
    def __init__(self, grammars: SlowGrammars | None) -> None:
        self.role = FakeRole(hold=True)
        self.sessions: Sessions = self.role.sessions
        self.session = FrontendSession("f")
        self.sessions._sessions["f"] = self.session
        self.constraints = Constraints(grammars, self.sessions)  # type: ignore[arg-type]
        self.taken: list[Sequence] = []

    def admit(self, grammar: str, output: tuple[int, ...] = ()) -> tuple[Leg, Sequence]:
        self.sessions._handle(self.session, pb.WorkerCommand(admit=pb.Admit(leg=1)))
        leg = self.sessions.leg(SequenceId("f/1"))
        assert leg is not None
        sequence = sequence_of("f/1", [5, *output], num_prompt=1)
        self.constraints.then(leg, sequence, grammar, lambda: self.taken.append(sequence))
        return leg, sequence

    async def compiled(self) -> None:
        await asyncio.gather(*self.constraints._tasks)

    def heard(self) -> list[pb.WorkerEvent]:
        return [self.session.outbox.get_nowait() for _ in range(self.session.outbox.qsize())]  # type: ignore[misc]


async def test_who_has_no_grammar_is_taken_in_at_once() -> None:
    scene = Scene(None)
    _, sequence = scene.admit("")
    assert scene.taken == [sequence]
    assert sequence.constraint is None


async def test_who_has_one_is_taken_in_with_it_and_what_was_said_before_is_replayed() -> None:
    grammars = SlowGrammars()
    token = grammars.grammars.tokenizer.tokenize_str("y")[0]
    scene = Scene(grammars)
    _, sequence = scene.admit('start: "yes" | "no"', (token,))
    assert scene.taken == []
    grammars.go.set()
    await scene.compiled()
    assert scene.taken == [sequence]
    assert isinstance(sequence.constraint, GrammarState)
    assert allowed(sequence.constraint) == allowed(grammars.grammars.start('start: "yes" | "no"', [token]))
    assert scene.heard() == []


async def test_what_cannot_be_compiled_is_refused_as_not_meant_for_this_worker() -> None:
    grammars = SlowGrammars()
    grammars.go.set()
    for scene, grammar in ((Scene(grammars), "start: unknown"), (Scene(None), "start: /a/")):
        scene.admit(grammar)
        await scene.compiled()
        (refused,) = scene.heard()
        assert refused.refused.reason == pb.REFUSAL_REASON_INVALID
        assert refused.refused.message
        assert scene.taken == []
        assert scene.sessions._legs == {} == scene.session.legs


async def test_who_is_given_up_meanwhile_is_never_taken_in() -> None:
    for grammar in ('start: "a"', "start: unknown"):
        grammars = SlowGrammars()
        scene = Scene(grammars)
        scene.admit(grammar)
        scene.sessions._handle(scene.session, pb.WorkerCommand(abort=pb.Abort(leg=1)))
        assert scene.role.aborted == [1]
        grammars.go.set()
        await scene.compiled()
        assert scene.taken == []
        assert [event.WhichOneof("event") for event in scene.heard()] == ["released"]
        assert scene.sessions._legs == {} == scene.session.legs


async def test_a_grammar_that_breaks_its_reader_leaves_no_leg_behind() -> None:
    class Broken(SlowGrammars):
        def start(self, text: str, tokens: list[int]) -> GrammarState:
            raise ZeroDivisionError

    grammars = Broken()
    grammars.go.set()
    scene = Scene(grammars)
    scene.admit("start: /a/")
    await asyncio.gather(*scene.constraints._tasks, return_exceptions=True)
    (refused,) = scene.heard()
    assert refused.refused.message == "its grammar could not be read"
    assert scene.sessions._legs == {} == scene.session.legs

"""Puts a grammar's state beside a leg's sequence before the step loop sees it. Called on the event loop alone.

Compiling takes its time, so a leg may be given up meanwhile: then nothing of it was taken in, and that is what is said.
"""

import asyncio
from collections.abc import Callable

from engine.errors import TandemError
from engine.grammar import Grammars
from engine.leg import Leg
from engine.sequence import Sequence
from engine.session import Sessions


class Constraints:
    """Of one worker's legs."""

    def __init__(self, grammars: Grammars | None, sessions: Sessions) -> None:
        """Without `grammars`, legs that name one are refused."""
        self._grammars = grammars
        self._sessions = sessions
        self._tasks: set[asyncio.Task[None]] = set()

    def then(self, leg: Leg, sequence: Sequence, grammar: str, take_in: Callable[[], None]) -> None:
        """Call `take_in` once `sequence` has what constrains it: at once where nothing does."""
        if not grammar:
            take_in()
            return
        task = asyncio.create_task(self._constrain(leg, sequence, grammar, take_in))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _constrain(self, leg: Leg, sequence: Sequence, grammar: str, take_in: Callable[[], None]) -> None:
        failure = "this worker follows no grammars"
        try:
            if self._grammars is not None:
                failure = "its grammar could not be read"  # for a reason that only the log has
                output = sequence.tokens[sequence.num_prompt :]
                sequence.constraint = await self._grammars.run(self._grammars.start, grammar, output)
        except TandemError as error:
            failure = f"its grammar: {error.message}"
        finally:
            self._answer(leg, sequence, failure, take_in)

    def _answer(self, leg: Leg, sequence: Sequence, failure: str, take_in: Callable[[], None]) -> None:
        if leg.given_up:
            self._sessions.released(leg.id)
        elif sequence.constraint is None:
            self._sessions.reject(leg, failure)
        else:
            take_in()

"""Responses that are made whether or not anybody waits for them: each by a task of its own, until it is told to end.

What there is of one is what is kept of it. Does not know HTTP.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Any

from msgspec import structs

from engine.errors import TandemError
from frontend.api import Inference
from frontend.events import Delta, Finished, Started
from frontend.rest.openai.responses.answer import Keep, begun, ended, failed
from frontend.rest.openai.responses.answer_types import ResponseDocument
from frontend.rest.openai.responses.open_items import Numbering
from frontend.rest.openai.responses.output import Output
from frontend.rest.openai.responses.parse import ResponseAsk

log = logging.getLogger(__name__)


class Background:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By the response's id, of those that have begun."""
        self._all: set[asyncio.Task[None]] = set()

    async def begin(self, ask: ResponseAsk, keep: Keep) -> ResponseDocument:
        """The response, as soon as room for it is promised. Raises TandemError for one that is refused."""
        document: asyncio.Future[ResponseDocument] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._make(ask, keep, document))
        self._all.add(task)
        task.add_done_callback(self._over)
        first: list[asyncio.Future[Any]] = [task, document]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not document.done():
            task.result()  # raises what it was refused for
        return document.result()

    async def cancel(self, response_id: str) -> None:
        """Return once it is kept as cancelled; at once, if it is not being made any more."""
        task = self._tasks.get(response_id)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _make(self, ask: ResponseAsk, keep: Keep, begun_as: "asyncio.Future[ResponseDocument]") -> None:
        output = Output(Numbering())
        document: ResponseDocument | None = None
        last: ResponseDocument | None = None
        try:
            async with aclosing(self._inference.generate(ask.generation)) as events:
                async for event in events:
                    match event:
                        case Started():
                            document = begun(ask.given, event)
                            self._begun(document, keep)
                            begun_as.set_result(document)
                        case Delta():
                            output.take(event)
                        case Finished():
                            assert document is not None, "an answer ended without Started"
                            output.finish(event.reason)
                            last = ended(document, output, event)
        except TandemError as error:
            if document is None:
                raise
            output.fail()
            last = failed(document, output, error)
        except asyncio.CancelledError:
            if document is not None:
                output.fail()
                last = structs.replace(document, status="cancelled", output=output.items)
            raise
        finally:
            if document is not None and self._tasks.pop(document.id, None) is not None:  # it was not abandoned
                keep(last or failed(document, output, TandemError("internal error")))

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._all.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TandemError):
            log.error("a response in the background failed", exc_info=error)

    def _begun(self, document: ResponseDocument, keep: Keep) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[document.id] = task

        def abandon() -> None:
            self._tasks.pop(document.id, None)
            task.cancel()

        keep(document, abandon)

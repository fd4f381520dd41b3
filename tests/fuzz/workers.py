"""Real workers with the demonstration model, for as many examples as they survive."""

from contextlib import AsyncExitStack, suppress

from engine.hub import DEMO_MODEL
from tests.cluster import Cluster, cluster


class Workers:
    """Of each role one, started again when an example has ended them: the next one should find them alive."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._cluster: Cluster | None = None

    async def running(self) -> Cluster:
        if self._cluster is not None and any(task.done() for task in self._cluster.tasks.values()):
            with suppress(Exception):  # they say what ended them
                await self.stop()
            self._cluster = None
        if self._cluster is None:
            self._cluster = await self._stack.enter_async_context(cluster(DEMO_MODEL))
        return self._cluster

    async def stop(self) -> None:
        await self._stack.aclose()

"""The links of one sender, by address: made when needed, a bounded number, forgotten when they end."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from engine.errors import TransferFailed
from kvtransfer.link import Channel, Limits, Link
from kvtransfer.speed import Speed


class Links:
    """`connect` makes the channel to an address; it raises TransferFailed."""

    def __init__(self, connect: Callable[[str], Channel], limits: Limits, max_links: int) -> None:
        self._connect = connect
        self._limits = limits
        self._max_links = max_links
        self._by_address: OrderedDict[str, Link] = OrderedDict()
        self._closed = False
        self.speed = Speed()
        """Of all links, those that have ended too."""

    @property
    def bytes_per_s(self) -> Mapping[str, float]:
        """Speed of each link there is."""
        return {address: link.speed.bytes_per_s for address, link in self._by_address.items()}

    def to(self, address: str) -> Link:
        """The link to `address`, made when there is none; the idle one longest unused makes room."""
        if (link := self._by_address.get(address)) is None:
            if self._closed:
                raise TransferFailed("the sender was closed")
            if len(self._by_address) >= self._max_links:
                self._close_an_idle_link()
            channel = self._connect(address)
            link = self._by_address[address] = Link(channel, address, self._limits, self.speed, self._forget)
        self._by_address.move_to_end(address)
        return link

    def close(self) -> None:
        """End every link, for good."""
        self._closed = True
        for link in list(self._by_address.values()):
            link.close(TransferFailed("the sender was closed"))

    def _close_an_idle_link(self) -> None:
        if idle := next((link for link in self._by_address.values() if link.idle), None):
            idle.close(TransferFailed("the link made room for another"))

    def _forget(self, link: Link) -> None:
        if self._by_address.get(link.address) is link:
            del self._by_address[link.address]

"""Tell clients that what they read has changed: sessions, their executions and events.

The log of events is followed by one task, whoever subscribes. Over the 2026-07-28 wire the
SDK's bus carries it to open `subscriptions/listen` streams; to clients of the older protocol
goes a notification, and one that does not take it in time is forgotten with all it subscribed
to. A client that misses one reads the log from its number.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent
from mcp.types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from kernelry import Sessions
from kernelry.errors import KernelryError
from kernelry.models import Event
from kernelry_mcp.context import App

SESSION_SCHEME = "session://"
SUBSCRIPTIONS = 1000  # of clients of the older protocol, all together
PATIENCE = 5.0  # seconds for one of them to take a notification
PERIOD = 60.0  # seconds after which an unanswered wait for events is begun anew
SETBACK = 1.0  # seconds before the log is read again that could not be

log = logging.getLogger(__name__)


class Bus(InMemorySubscriptionBus):
    """The SDK's bus, which says when somebody begins to listen."""

    def __init__(self, on_listener: Callable[[], None]) -> None:
        super().__init__()
        self._on_listener = on_listener
        #: how many listen
        self.listeners = 0

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Register a listener; what is returned ends that."""
        leave = super().subscribe(listener)
        self.listeners += 1
        self._on_listener()
        is_here = True

        def unsubscribe() -> None:
            nonlocal is_here
            leave()
            self.listeners -= is_here
            is_here = False

        return unsubscribe


class Subscriptions:
    """Who wants to know what, in one server."""

    def __init__(self) -> None:
        #: carries events to streams of the 2026-07-28 wire
        self.bus = Bus(self._begin)
        self._begun = asyncio.Event()
        self._legacy: dict[tuple[int, str], Any] = {}

    def serve(self, server: MCPServer[App]) -> None:
        """Take the older protocol's requests to subscribe."""
        lowlevel = server._lowlevel_server  # the SDK's own example server does it like this
        lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, self._add)
        lowlevel.add_request_handler(
            "resources/unsubscribe", UnsubscribeRequestParams, self._remove
        )

    async def follow(self, sessions: Sessions) -> None:
        """Tell of what happens, until cancelled."""
        since = -1
        while True:
            if not (self.bus.listeners or self._legacy):
                self._begun.clear()  # nobody listens: nothing is read
                await self._begun.wait()
                since = -1
            try:
                since = await sessions.events.newest() if since < 0 else since
                events = await sessions.events.read(since=since, wait=PERIOD, limit=1000)
            except KernelryError as error:
                log.warning("subscribers are not told: %s", error)
                await asyncio.sleep(SETBACK)
                continue
            since = events[-1].seq if events else since
            uris = {uri: None for event in events for uri in await changed(sessions, event)}
            for uri in uris:
                await self.bus.publish(ResourceUpdated(uri=uri))
            async with asyncio.TaskGroup() as group:
                for (_, wanted), connection in list(self._legacy.items()):
                    if wanted in uris:
                        group.create_task(self._tell(connection, wanted))

    def _begin(self) -> None:
        self._begun.set()

    async def _tell(self, connection: Any, uri: str) -> None:
        try:
            with anyio.fail_after(PATIENCE):
                await connection.send_resource_updated(uri)
        except Exception as error:  # whatever became of it, it concerns this client only
            log.info("a subscriber of %s is forgotten: %r", uri, error)
            for key in [key for key, held in self._legacy.items() if held is connection]:
                self._legacy.pop(key, None)

    async def _add(self, ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        if len(self._legacy) >= SUBSCRIPTIONS:
            self._legacy.pop(next(iter(self._legacy)))
        self._legacy[id(ctx.session), str(params.uri)] = ctx.session
        self._begin()
        return EmptyResult()

    async def _remove(self, ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        self._legacy.pop((id(ctx.session), str(params.uri)), None)
        return EmptyResult()


async def changed(sessions: Sessions, event: Event) -> list[str]:
    """Return the resources that an event changes."""
    if not event.session_id:
        return []
    base = SESSION_SCHEME + event.session_id
    found = [base, f"{base}/events", f"{base}/graph"]
    if event.execution_id:
        try:
            execution = await sessions.execution(event.execution_id)
        except KernelryError:  # deleted meanwhile
            return found
        found.append(f"{base}/executions/{execution.index}")
    return found

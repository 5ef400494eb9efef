"""Requests that need something made before the core may have them: a grammar, compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable

from helexa.engine.core_loop import Abort, Message, Refused, Submit
from helexa.engine.outputs import Request
from helexa.errors import HelexaError


class Preparation:
    """Hands requests on to a core's inbox, those with a grammar once that has been compiled.

    That takes place on a thread for each, so that no step waits for it: there are no more of them
    than callers have seats. ``prepare`` raises what the request is then told; ``accept`` puts a
    message into the inbox. A request whose grammar is ready at once may overtake one that waits.
    """

    def __init__(
        self, prepare: Callable[[Request], None], accept: Callable[[Message], None]
    ) -> None:
        self._prepare = prepare
        self._accept = accept
        self._waiting: set[int] = set()
        self._gate = threading.Lock()

    def submit(self, message: Submit) -> None:
        if message.request.grammar is None:
            self._accept(message)
            return
        with self._gate:
            self._waiting.add(message.id)
        threading.Thread(
            target=self._run, args=(message,), name="helexa-prepare", daemon=True
        ).start()

    def abort(self, message: Abort) -> None:
        """Also of a request that still waits: the core then never hears of it."""
        with self._gate:
            if message.id in self._waiting:
                self._waiting.remove(message.id)
                return
            self._accept(message)

    def _run(self, message: Submit) -> None:
        ready: Message = message
        try:
            self._prepare(message.request)
        except HelexaError as error:
            ready = Refused(message.id, error, message.deliver)
        except BaseException as error:  # the edge of the thread: the request is told
            fault = HelexaError(f"its grammar cannot be read: {type(error).__name__}: {error}")
            ready = Refused(message.id, fault, message.deliver)
        with self._gate:  # an abort comes before this, or after it in the inbox
            if message.id in self._waiting:
                self._waiting.remove(message.id)
                self._accept(ready)

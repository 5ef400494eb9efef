"""The end of a daemon's process."""

from __future__ import annotations

import os
import sys
import threading
import time

GRACE_S = 1.0


def leave(grace_s: float = GRACE_S) -> None:
    """End the process, with status 0, if a thread would hold up its end; return if none does.

    Python waits for all threads that have not ended. One that nobody needs any more may still wait
    for a network, for as long as that has been given time to answer.
    """
    deadline = time.monotonic() + grace_s
    others = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and not thread.daemon
    ]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        sys.stdout.flush()
        os._exit(0)

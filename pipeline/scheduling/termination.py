"""Runs an action at SIGTERM, whatever the main thread is busy with."""

import os
import signal
import threading
from collections.abc import Callable


def before_termination(action: Callable[[], None]) -> bool:
    """Runs `action` at SIGTERM on a thread of its own, then exits the process. Returns False if it cannot be set up.

    A Python signal handler runs on the main thread, which in a Ray worker is blocked in C++. But the interpreter writes a
    byte to the wake-up descriptor at once, and another thread can wait for it. Only the main thread may set up signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # without a handler no byte is written
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGTERM not in os.read(reading, 64):
            pass  # some other signal
        try:
            action()
        finally:
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="termination").start()
    return True

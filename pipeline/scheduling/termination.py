"""What a process does before it goes when it is asked to end (SIGTERM), whatever its main thread is busy with."""

import os
import signal
import threading
from collections.abc import Callable


def before_termination(action: Callable[[], None]) -> bool:
    """Has `action` run at SIGTERM, on a thread of its own, after which the process exits. False if that cannot be set up.

    A handler in Python runs on the main thread only, which in a Ray worker waits inside C++. The byte that the
    interpreter writes to the wake-up descriptor comes at once, and another thread can read it. Signals can be set up
    from the main thread alone.
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

"""Ports and processes of the servers that tests start."""

import contextlib
import socket

import psutil


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def end_all_with(text: str) -> None:
    """Kills every process with this text, which only the caller can have chosen, in its command line."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if text in " ".join(process.cmdline()):
                process.kill()

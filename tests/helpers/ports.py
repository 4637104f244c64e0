"""Ports for processes that meet."""

import socket


def free_port() -> int:
    """A TCP port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

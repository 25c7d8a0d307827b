"""The least that can stand between: a process that hands bytes on and reads none of them.

What it adds to a request is the price of one more process on this machine (four times over the kernel's loopback, and
a core that is woken), which no proxy can be below. Run by the bench as `python -m bench.router.relay PORT UPSTREAM`.
"""

from __future__ import annotations

import socket
import sys
import threading

_MOST = 1 << 16


def relay(client: socket.socket, upstream: int) -> None:
    """Hand a request on and its answer back, until the client leaves; each comes in one piece here."""
    with client, socket.create_connection(("127.0.0.1", upstream)) as server:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := client.recv(_MOST):
            server.sendall(request)
            client.sendall(server.recv(_MOST))


def main(port: int, upstream: int) -> None:
    """Serve until the process is ended."""
    with socket.create_server(("127.0.0.1", port)) as door:
        while True:
            client, _ = door.accept()
            threading.Thread(target=relay, args=(client, upstream), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

# SPDX-License-Identifier: Apache-2.0
"""A client of cowd that knows nothing of cowd's library: lines of JSON in, raw gRPC calls out.

Runs as an unprivileged user, started by a test. Prints {"pid": N} and then answers each line:

    {"method": PATH, "request": HEX, "timeout": SECONDS, "wait": whether for a server}
        -> {"responses": [HEX], "seconds": N}
        or {"code": N, "message": TEXT, "details": HEX, "raw": HEX, "seconds": N}
    {..., "most": N}                    a call whose response is a stream: cancelled after N of them
        -> {"responses": [HEX, ...], "seconds": N}
        or a failure as above
    {"create": KIND, "arguments": [TEXT, ...]}
        -> what subjects.py says of pages of that kind, now this process's own

Usage: caller.py SOCKET_PATH [DESCRIPTOR]. With a descriptor, which is a connection that somebody
else made, calls go through that one: SOCKET_PATH is then made here, and what comes to it relayed.
"""

import itertools
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

DETAILS_KEY = "grpc-status-details-bin"
COPY_BYTES = 65_536


class Client:
    """A connection, made when first used: before that, this process may fork."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._channel: Any = None

    def call(self, order: dict[str, Any]) -> dict[str, Any]:
        """Make one call and return the answer's line."""
        import grpc  # it starts threads: what `create` forks must come before

        if self._channel is None:
            options = [
                ("grpc.default_authority", "localhost"),
                ("grpc.max_receive_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 20_000),  # how long connecting may take
                ("grpc.max_reconnect_backoff_ms", 200),
            ]
            self._channel = grpc.insecure_channel(f"unix:{self._path}", options)
        start = time.monotonic()
        most = order.get("most")
        make = self._channel.unary_unary if most is None else self._channel.unary_stream
        try:
            answer = make(order["method"])(
                bytes.fromhex(order["request"]),
                timeout=order["timeout"],
                wait_for_ready=order["wait"],
            )
            responses = [answer] if most is None else list(itertools.islice(answer, most))
            if most is not None:
                answer.cancel()  # of no effect on a call that has ended
        except grpc.RpcError as error:
            trailing = [(key, _to_bytes(value)) for key, value in error.trailing_metadata() or ()]
            initial = [(key, _to_bytes(value)) for key, value in error.initial_metadata() or ()]
            message = error.details() or ""
            raw = b"\n".join([message.encode(), *(value for _, value in initial + trailing)])
            return {
                "code": error.code().value[0],
                "message": message,
                "details": dict(trailing).get(DETAILS_KEY, b"").hex(),
                "raw": raw.hex(),
                "seconds": time.monotonic() - start,
            }
        seconds = time.monotonic() - start
        return {"responses": [response.hex() for response in responses], "seconds": seconds}


def _to_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def relay(listener: socket.socket, connection: socket.socket) -> None:
    """Join the first connection to `listener` and `connection` until both have ended."""
    client, _ = listener.accept()
    listener.close()
    there = threading.Thread(target=copy_bytes, args=(client, connection), daemon=True)
    there.start()
    copy_bytes(connection, client)
    there.join()


def copy_bytes(source: socket.socket, sink: socket.socket) -> None:
    """Copy what comes from `source` to `sink`, and then its end."""
    try:
        while part := source.recv(COPY_BYTES):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side has gone; its thread says so to its peer


def main() -> None:
    """Answer lines until there are no more."""
    path = sys.argv[1]
    if len(sys.argv) > 2:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        connection = socket.socket(fileno=int(sys.argv[2]))
        threading.Thread(target=relay, args=(listener, connection), daemon=True).start()
    client = Client(path)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "create" in order:
            sys.path.append(str(Path(__file__).parent / "kernel"))
            import subjects

            answer = subjects.create(order["create"], order["arguments"])
        else:
            answer = client.call(order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

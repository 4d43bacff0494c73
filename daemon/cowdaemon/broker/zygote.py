# SPDX-License-Identifier: Apache-2.0
"""The broker's link to the zygote, the unprivileged process that forks workers.

Root, in the broker. The zygote is executed, not forked: its image, and so every worker's, shares no
address layout with root's. Messages to it never wait; one that does not fit raises.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from cowdaemon import wire
from cowdaemon.config import Limits
from cowdaemon.system.processes import Child

__all__ = ["ZygoteLink"]

_MODULE: Final = "cowdaemon.worker.zygote"
# A process with more than one thread must not fork; gRPC's own fork handlers are not needed then.
# And it does not speak to the service manager in our name.
_ENV: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "NOTIFY_SOCKET": "",
}


class ZygoteLink:
    """A running zygote.

    Args:
        user: name of the user that it and the workers become.
        limits: what workers may use.
    """

    def __init__(self, user: str, limits: Limits) -> None:
        self.control, remote = wire.seqpacket_pair()
        with remote:
            numbers = (remote.fileno(), limits.worker_memory_bytes)
            # -P: the directory that root happens to stand in is no place to import from.
            isolation = "-I" if sys.flags.isolated else "-P"
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, isolation, "-m", _MODULE, user, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[remote.fileno()],
                env=os.environ | _ENV,
            )
        self.control.setblocking(False)
        wire.refuse_descriptors(self.control)
        self.process: Final = Child(process.pid, os.pidfd_open(process.pid))
        process.returncode = 0  # Child reaps it
        self.is_ready = False

    def receive_ready(self) -> bool:
        """Return whether its message is that it is ready; False for any other, or its end."""
        try:
            message, _ = wire.receive(self.control)
        except (OSError, wire.WireError):
            return False
        self.is_ready = message == wire.READY
        return self.is_ready

    def spawn(self, request: wire.SpawnRequest, descriptors: Sequence[int]) -> None:
        """Have a worker forked that holds `descriptors`.

        Raises:
            OSError: the zygote is gone or does not read.
        """
        wire.send(self.control, request.pack(), descriptors)

    def kill(self, worker_id: int) -> None:
        """Have a worker killed; nothing happens if it has ended already.

        Root without CAP_KILL may not signal another user's process; the zygote may.
        """
        try:
            wire.send(self.control, wire.KillRequest(worker_id).pack())
        except OSError:
            # It is gone, and its workers with it; or it does not read: then it goes, with them.
            self.close()

    def close(self) -> None:
        """Let it end: it and its workers do so when this end is closed."""
        self.control.close()

# SPDX-License-Identifier: Apache-2.0
"""Who is calling, as the kernel knows it: ids frozen at connect.

Root, in the broker. uid, gid and groups are authority; the pid never is: it only leads to the
process whose namespaces are looked at, and to the capabilities of a uid 0 caller.
"""

import errno
import os
import socket
from dataclasses import dataclass
from typing import Final

from cowdaemon.system import peercred
from cowdaemon.system.privileges import Capability
from cowdaemon.system.procfs import has_ended, read_status

__all__ = ["Credential", "Peer"]


@dataclass(frozen=True, slots=True)
class Credential:
    """One identity: whoever has the same is served by the same opener and worker.

    `groups` is ascending. `capabilities` is empty but for uid 0: what another uid holds when it
    is looked at may come from a setuid program that it executed after it connected. `label` is the
    security module's: it gives nothing, but the records of what was done have it.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: Capability
    label: bytes = b""

    @property
    def gids(self) -> tuple[int, ...]:
        """Every group that it is in."""
        return (self.gid, *self.groups)


class Peer:
    """An accepted connection and the process that made it, `pidfd` once that is held.

    Raises:
        OSError: the kernel does not tell who it is.
    """

    def __init__(self, client: socket.socket) -> None:
        self.client: Final = client
        self.pid, self.uid, self.gid = peercred.read_ids(client)
        self.label: Final = peercred.read_label(client)
        self.pidfd = -1

    def hold_process(self) -> bool:
        """Get hold of the process; return whether it was still there."""
        try:
            self.pidfd = peercred.open_process(self.client, self.pid)
        except ProcessLookupError:
            return False
        return True

    def release_process(self) -> None:
        """Let go of the process."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def read_credential(self) -> Credential:
        """Return the identity that it has with us.

        Raises:
            ProcessLookupError, FileNotFoundError: it has ended, so that this is not known.
        """
        # Of another uid they would be those of what it executes, not of who connected.
        capabilities = Capability(0) if self.uid else _read_capabilities(self.pid, self.pidfd)
        groups = peercred.read_groups(self.client)
        return Credential(self.uid, self.gid, groups, capabilities, self.label)


def _read_capabilities(pid: int, pidfd: int) -> Capability:
    """Return those of a uid 0 caller's effective capabilities that help it to open a process.

    Raises:
        ProcessLookupError: the process has ended, so what was read may be another's.
    """
    status = read_status(pid)
    if has_ended(pidfd) or status["Uid"].split()[1] != "0":
        raise ProcessLookupError(errno.ESRCH, "the peer has ended or is root no more")
    effective = int(status["CapEff"], 16)
    return Capability(effective & (Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH))

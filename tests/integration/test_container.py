# SPDX-License-Identifier: Apache-2.0
"""cowd in a container as packaging/kubernetes/cowd.yaml makes it: what it may do there suffices.

No container engine is needed: a container is mounts, capabilities and ids of its own. The pids are
the machine's, and so is the user namespace (hostPID, hostUsers). The engine's
filter of system calls, and AppArmor, are not here.
"""

from pathlib import Path

from cowdaemon.system.privileges import Capability
from cowproto.v1 import pageflags_pb2
from harness.daemon import StartDaemon
from harness.outcomes import DENIED
from harness.processes import read_status
from harness.programs import GAMES, NOBODY, StartCaller, StartSubject

GRANT = '[[grant]]\ngroup = "backup"\ndetail = "summary"\n'
MEMBER = NOBODY._replace(gid=34)
MOUNTED = """
mount --bind "$1" "$1"
mount -o remount,bind,ro /
mount -t proc -o nosuid,nodev,noexec proc /proc
shift
exec "$@"
"""
"""In a mount namespace: a root that is not written to but in one folder, and a /proc of its own."""
MOUNTED_READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@"'
UNSHARE = ("unshare", "--mount", "--propagation=private", "--", "sh", "-euc")


def test_cowd_and_its_exporter_live_in_containers(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    public_directory: Path,
) -> None:
    """The exporter's user has summaries of all, and the socket is in a folder that it cannot write.

    Seen to fail with SYS_PTRACE or DAC_READ_SEARCH left out.
    """
    bounding = ",".join(f"+{capability.name}".lower() for capability in Capability)
    daemon = start_daemon(
        config=GRANT,
        prefix=[
            *(*UNSHARE, MOUNTED, "sh", str(public_directory.parent)),
            *("setpriv", "--no-new-privs", f"--bounding-set=-all,{bounding}", "--"),
        ],
    )
    caller = start_caller(
        MEMBER,
        daemon.socket_path,
        prefix=[*UNSHARE, MOUNTED_READ_ONLY, "sh", str(daemon.socket_path.parent)],
    )
    mine, theirs = start_subject("memfd", user=MEMBER), start_subject("memfd", user=GAMES)
    with mine.stopped(), theirs.stopped():
        for subject in mine, theirs:
            [summary] = caller.summarize([subject.pid])
            assert summary.totals, summary.failure
        assert caller.get_page_flags(mine.pid, mine.address).kpageflags
        request = pageflags_pb2.GetPageFlagsRequest(pid=theirs.pid, address=theirs.address, count=1)
        refusal = caller.refusal("GetPageFlags", request)
        assert refusal.outcome == DENIED
    assert int(read_status(daemon.pid)["CapBnd"], 16) == sum(Capability)
    assert not Path(f"/proc/{daemon.pid}/ns/mnt").samefile("/proc/self/ns/mnt")

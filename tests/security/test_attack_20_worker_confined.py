# SPDX-License-Identifier: Apache-2.0
"""Attack 20: a worker signals, traces or reads another worker, zygote or opener.

The worker is real, of a real daemon, and confined as all are; `hostile.py` gives it an order to
attack. It tries everything behind all walls, behind seccomp alone, behind Landlock alone, and
behind neither, which shows that the attacks are ones. And /proc shows that what is said of workers,
zygote and openers is so in a daemon that nothing was changed in.
"""

import json
import os
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cowdaemon.limits import WORKER_DATA_BYTES, WORKER_DESCRIPTORS
from cowdaemon.system.confinement import SystemCallFilter, read_landlock_abi
from harness.changed_zygote import in_zygote
from harness.daemon import StartDaemon
from harness.processes import Tree, read_status
from harness.programs import DAEMON, GAMES, NOBODY, StartCaller, StartSubject
from security.hostile import ALONE, MARK, METHOD, ON_PROCESSES, SUCCESS, TARGETS

WITHOUT_SECCOMP = """
from cowdaemon.system import confinement
confinement._LIBSECCOMP = "libseccomp.so.0"
"""
WITHOUT_LANDLOCK = """
from cowdaemon.system import confinement
confinement._SYS_LANDLOCK_CREATE_RULESET = 30_000
"""
BE_HOSTILE = """
from security import hostile
hostile.be_hostile()
"""
ABI_WITH_SCOPES = 6

pytestmark = pytest.mark.skipif(
    not SystemCallFilter({}).is_there or read_landlock_abi() < ABI_WITH_SCOPES,
    reason="needs libseccomp, and Landlock that knows of signals (Linux 6.12)",
)

PROCESSES = {"stranger", "worker", "zygote", "opener", "broker"}
OF_THE_USER = {"stranger", "worker", "zygote"}
"""Processes of the user that workers run as; the stranger is none of cowd's, and dumpable."""


def on(processes: set[str], *attacks: str) -> set[str]:
    return {f"{attack} {process}" for process in processes for attack in attacks}


EVERYTHING = on(PROCESSES, *ON_PROCESSES) | set(ALONE)
TRIED_BY_ZYGOTE = on({"stranger", "broker"}, *ON_PROCESSES) | set(ALONE)
# What no wall is needed against: root's processes are not the user's, and cowd's are not dumpable.
# What the stranger has open is nothing that one could connect to.
REFUSED_ANYWAY = {
    *on(PROCESSES - OF_THE_USER, "signal", "signal by descriptor", "signal a thread of"),
    *on(PROCESSES - OF_THE_USER, "limit", "slow down"),
    *on(PROCESSES - {"stranger"}, "trace", "read memory of", "take a descriptor of"),
    *on(PROCESSES - {"stranger"}, "open memory of", "open pagemap of"),
    *on(PROCESSES, "connect to what is open in"),
    "open kpageflags anew",
}
# What Landlock does not know of. Signals can be ordered there, and are not sent.
PASSES_LANDLOCK = {
    *on(PROCESSES, "look at", "have signals sent to"),
    *on(OF_THE_USER, "limit", "slow down"),
    *{"look at a file", "make a file in memory", "fork", "make a namespace", "connect to a path"},
    *{"have memory to execute", "be dumpable", "outlive the zygote"},
}
# Names of up to 16 letters; few sockets have such a one.
PASSES_SECCOMP = {"connect to an abstract name"}
# The zygote makes workers, and these make sockets and read a seed, before they have a caller.
ZYGOTE_MAY = {"fork", "make a socket"}
ZYGOTE_MAY_READ = {"read a file", "open the log anew", "open pagemap of stranger"}


class Outcomes(NamedTuple):
    """What succeeded, of what zygote and worker have tried."""

    zygote: set[str]
    worker: set[str]


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process of the user that workers run as."""
    command = DAEMON.command(["/bin/cat"])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.read(1)  # it is what it will be
        yield process.pid


@pytest.fixture
def abstract_name() -> Iterator[str]:
    name = f"cowd-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        yield name


@pytest.fixture
def attack(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    public_directory: Path,
    stranger: int,
    abstract_name: str,
) -> Callable[[str], Outcomes]:
    """Return a function that starts a daemon with these statements, and has it attack."""
    (public_directory / "file").write_text("")
    (public_directory / "file").chmod(0o644)
    listening = public_directory / "listening"

    def run(statements: str) -> Outcomes:
        targets = {
            "stranger": stranger,
            "file": str(public_directory / "file"),
            "directory": str(public_directory),
            "socket": str(listening),
            "abstract": abstract_name,
        }
        environment = f"import os\nos.environ[{TARGETS!r}] = {json.dumps(targets)!r}\n"
        with socket.socket(socket.AF_UNIX) as named:
            named.bind(str(listening))
            listening.chmod(0o666)
            named.listen()
            daemon = start_daemon(
                change=statements + environment + in_zygote(statements + BE_HOSTILE)
            )
            other, caller = (start_caller(user, daemon.socket_path) for user in (GAMES, NOBODY))
            other.get_server_info()
            (another,) = daemon.settled_tree(openers=1, workers=1).workers
            caller.get_server_info()
            tree = daemon.settled_tree(openers=2, workers=2)
            targets |= {"worker": another, "zygote": tree.zygotes[0], "broker": tree.broker}
            targets |= {"opener": tree.openers[0]}
            answer = json.loads(caller.call_bytes(METHOD, json.dumps(targets).encode()))
        assert set(answer) == EVERYTHING
        assert daemon.settled_tree(openers=2, workers=2) == tree  # nobody came to harm
        (line,) = [line for line in daemon.log().splitlines() if line.startswith(MARK)]
        return Outcomes(*map(find_successes, (json.loads(line.removeprefix(MARK)), answer)))

    return run


def find_successes(outcomes: dict[str, str]) -> set[str]:
    return {attack for attack, outcome in outcomes.items() if outcome == SUCCESS}


def test_nothing_succeeds(attack: Callable[[str], Outcomes]) -> None:
    """Seen to fail without confine_worker(), without confine_zygote() or either half of it, and
    without the scopes of Landlock."""
    assert attack("") == Outcomes(zygote=ZYGOTE_MAY, worker=set())


def test_seccomp_alone_stops_what_it_can(attack: Callable[[str], Outcomes]) -> None:
    """As on a kernel without Landlock. Seen to fail without the worker's filter, without the
    zygote's, and with the zygote's in the place of the worker's."""
    assert attack(WITHOUT_LANDLOCK) == Outcomes(
        zygote=ZYGOTE_MAY | ZYGOTE_MAY_READ | PASSES_SECCOMP, worker=PASSES_SECCOMP
    )


def test_landlock_alone_stops_what_it_can(attack: Callable[[str], Outcomes]) -> None:
    """As without libseccomp. Seen to fail without confine_start(), without the zygote's ruleset,
    without the scopes, without the one for signals, and without what is said of TCP."""
    assert attack(WITHOUT_SECCOMP) == Outcomes(
        zygote=PASSES_LANDLOCK & TRIED_BY_ZYGOTE | {"make a socket"}, worker=PASSES_LANDLOCK
    )


def test_attacks_are_real(attack: Callable[[str], Outcomes]) -> None:
    """Without both walls all succeed that ids and PR_SET_DUMPABLE are not against. Seen to fail
    where a library or version that is missing was not left out."""
    outcomes = attack(WITHOUT_SECCOMP + WITHOUT_LANDLOCK)
    assert outcomes.worker == EVERYTHING - REFUSED_ANYWAY
    assert outcomes.zygote == TRIED_BY_ZYGOTE - REFUSED_ANYWAY


# That it is so in a daemon that nothing was changed in.


@pytest.fixture
def tree(start_daemon: StartDaemon, start_caller: StartCaller) -> Tree:
    """The processes of a daemon with one caller, that has asked nothing of a process."""
    daemon = start_daemon()
    caller = start_caller(NOBODY, daemon.socket_path)
    confinement = caller.get_server_info().confinement
    assert (confinement.seccomp, confinement.landlock_abi) == (True, read_landlock_abi())
    return daemon.settled_tree(openers=1, workers=1)


def test_proc_shows_the_walls(tree: Tree) -> None:
    """Seen to fail for each process without its filter and without close_to_others(), and without
    each limit of become(). Of Landlock /proc shows nothing."""
    (zygote,), (opener,), (worker,) = tree.zygotes, tree.openers, tree.workers
    filters = {zygote: "1", opener: "1", worker: "2"}
    for pid, count in filters.items():
        status = read_status(pid)
        assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", count)
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == 0
        # Also of an opener, whose uid is root's: a process that is not dumpable is root's alone.
        assert Path(f"/proc/{pid}/fd").stat().st_uid == 0
    for pid in (zygote, worker):
        status = read_status(pid)
        assert status["Uid"].split() == [str(DAEMON.uid)] * 4
        assert int(status["CapPrm"], 16) == 0
        limits = read_limits(pid)
        assert limits["Max core file size"] == "0"
        assert limits["Max locked memory"] == "0"
        assert limits["Max msgqueue size"] == "0"
        assert limits["Max data size"] == str(WORKER_DATA_BYTES)
        assert limits["Max open files"] == str(WORKER_DESCRIPTORS)


def read_limits(pid: int) -> dict[str, str]:
    """Return the hard limits, by the kernel's names for them."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {name: hard for name, _, hard, *_ in (re.split(r"\s{2,}", line) for line in lines)}


def test_nothing_is_open_but_what_is_needed(tree: Tree) -> None:
    """Seen to fail with one more for an opener to keep, without what a worker closes of the
    zygote's, and with the descriptor of a ruleset, or of the seed, left open."""
    zygote, opener, worker = (
        count_descriptors(pid) for (pid,) in (tree.zygotes, tree.openers, tree.workers)
    )
    assert opener == {"log": 1, "socket": 1}
    # Its socket is the one to the broker; a pidfd is for each worker.
    standard = {"/dev/null": 2, "log": 1, "/proc/kpageflags": 1}
    assert zygote == {**standard, "socket": 1, "anon_inode:[pidfd]": 1}
    # To the broker, to the opener, gRPC's listener; then a client's connection, and both ends of
    # the one that it is relayed to. What gRPC waits with differs by release.
    assert worker.pop("anon_inode:[eventpoll]") <= 2
    assert worker.pop("anon_inode:[eventfd]") <= 2
    counters = {"/memfd:counters (deleted)": 1}
    assert worker == {**standard, **counters, "socket": 6, "inner": 1}


def count_descriptors(pid: int) -> Counter[str]:
    """Return how many descriptors of each kind a process has."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        name = Path(target.removesuffix(" (deleted)")).name
        kinds[name if name in ("log", "inner") else re.sub(r":\[\d+\]$", "", target)] += 1
    return kinds


# Where a wall is missing, and where it does not stand.


@pytest.mark.parametrize(
    ("statements", "seccomp", "landlock_abi"),
    [
        (WITHOUT_SECCOMP, False, read_landlock_abi()),
        (WITHOUT_LANDLOCK, True, 0),
        (WITHOUT_SECCOMP + WITHOUT_LANDLOCK, False, 0),
    ],
)
def test_what_the_machine_has_not_is_said_and_all_is_served(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    statements: str,
    seccomp: bool,
    landlock_abi: int,
) -> None:
    """Seen to fail where a missing library or version 0 was not left out, and where GetServerInfo
    said the same everywhere."""
    daemon = start_daemon(change=statements + in_zygote(statements))
    caller = start_caller(NOBODY, daemon.socket_path)
    confinement = caller.get_server_info().confinement
    assert (confinement.seccomp, confinement.landlock_abi) == (seccomp, landlock_abi)
    subject = start_subject("anonymous")
    (page, *_) = subject.description["pages"]
    assert caller.get_page_flags(subject.pid, page["address"]).state[0]
    tree = daemon.settled_tree(openers=1, workers=1)
    modes = {read_status(pid)["Seccomp"] for pid in (*tree.zygotes, *tree.openers, *tree.workers)}
    assert modes == {"2" if seccomp else "0"}


@pytest.mark.parametrize(
    ("missing", "failure"),
    [("seccomp", "seccomp: "), ("landlock_restrict_self", "landlock_restrict_self: ")],
)
def test_worker_that_cannot_be_confined_serves_nobody(
    start_daemon: StartDaemon, start_caller: StartCaller, missing: str, failure: str
) -> None:
    """Seen to fail where load() and restrict_files() did not look at what the kernel said."""
    forget = f"from cowdaemon.system import system_calls\ndel system_calls.ZYGOTE[{missing!r}]"
    daemon = start_daemon(change=in_zygote(forget))
    caller = start_caller(NOBODY, daemon.socket_path)
    assert caller.refusal("GetServerInfo", b"").outcome[0] == "UNAVAILABLE"
    assert f"PrivilegeError: {failure}" in daemon.log()
    daemon.settled_tree(openers=0, workers=0)


def test_zygote_that_cannot_be_confined_does_not_start(start_daemon: StartDaemon) -> None:
    """Seen to fail where restrict_files() did not look at what the kernel said of the rule."""
    break_it = (
        "from cowdaemon.system import confinement\nconfinement._LANDLOCK_RULE_PATH_BENEATH = 30_000"
    )
    with pytest.raises(AssertionError, match="cowd: landlock_add_rule"):
        start_daemon(change=in_zygote(break_it))

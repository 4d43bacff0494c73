# SPDX-License-Identifier: Apache-2.0
"""Attack 2: ask about a process of one's own uid that is more than its user.

It has executed a setuid program, forbids to be inspected, holds a capability, or has another gid.
To the kernel each of them is closed, to programs of the same user, and so it must be here. What
stands against it is the same every time: the opens with the caller's authority and nothing else.
The other open, with SYS_ADMIN, counts as PERFMON for the kernel (Linux 6.15), which may read the
memory of all of these. Against a target that holds still each of the three A-opens (pagemap before
and after, and maps) is enough: a test fails when all three are taken out.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2
from harness.kernel_access import open_pagemaps
from harness.outcomes import DENIED
from harness.processes import read_status
from harness.programs import GAMES, HOLDING_NET_RAW, NOBODY, Caller, Program, StartSubject
from security.capable_programs import NET_RAW, grant_net_raw


def verify_refused(nobody: Caller, pid: int, address: int = 0x1000) -> None:
    """Assert that the daemon refuses what the kernel does."""
    assert open_pagemaps(NOBODY, [pid]) == ["EACCES"]
    assert nobody.refused_page_flags(pid, address) == DENIED
    listing = pageflags_pb2.ListMappingsRequest(pid=pid)
    assert nobody.refusal("ListMappings", listing).outcome == DENIED


StartCat = Callable[[Path], Program]


@pytest.fixture
def start_cat() -> Iterator[StartCat]:
    """Return a function that has nobody execute a copy of cat."""
    with ExitStack() as stack:

        def start(path: Path) -> Program:
            # By a shell: setpriv keeps what it may have, and exec is more lenient to it.
            program = Program(NOBODY.command(["sh", "-c", 'exec "$0"', str(path)]))
            stack.callback(program.kill)
            program.write({"running": True})
            assert program.read() == {"running": True}  # cat says so: it has been executed
            return program

        yield start


@pytest.fixture
def capable_cat(public_directory: Path) -> Path:
    """Return a copy of cat whose file grants it NET_RAW, permitted and not effective."""
    if os.statvfs(public_directory).f_flag & os.ST_NOSUID:
        pytest.skip(f"{public_directory} is mounted nosuid")
    program = public_directory / "cat"
    shutil.copy("/bin/cat", program)
    grant_net_raw(program)
    return program


def test_process_that_executed_a_setuid_program(
    nobody: Caller, start_cat: StartCat, setuid_cat: Path
) -> None:
    """Seen to fail without the A-opens and with DAC_READ_SEARCH effective: the file is root's."""
    program = start_cat(setuid_cat)
    assert read_status(program.pid)["Uid"].split()[:2] == [str(NOBODY.uid), "0"]
    verify_refused(nobody, program.pid)


def test_process_that_is_not_dumpable(nobody: Caller, start_subject: StartSubject) -> None:
    """Seen to fail without the A-opens and with DAC_READ_SEARCH effective: the file is root's."""
    subject = start_subject("undumpable")
    verify_refused(nobody, subject.pid, subject.address)


def test_process_that_holds_a_capability(nobody: Caller, start_subject: StartSubject) -> None:
    """Seen to fail without the A-opens."""
    subject = start_subject("anonymous", user=HOLDING_NET_RAW)
    for kind in ("CapPrm", "CapEff", "CapAmb"):
        assert int(read_status(subject.pid)[kind], 16) == 1 << NET_RAW
    verify_refused(nobody, subject.pid, subject.address)


def test_process_that_executed_a_program_with_a_capability(
    nobody: Caller, start_cat: StartCat, capable_cat: Path
) -> None:
    """Seen to fail without the A-opens and with DAC_READ_SEARCH effective: the file is root's."""
    program = start_cat(capable_cat)
    status = read_status(program.pid)
    assert (int(status["CapPrm"], 16), int(status["CapEff"], 16)) == (1 << NET_RAW, 0)
    verify_refused(nobody, program.pid)


def test_process_of_another_group(nobody: Caller, start_subject: StartSubject) -> None:
    """Seen to fail without the A-opens."""
    subject = start_subject("anonymous", user=NOBODY._replace(gid=GAMES.gid))
    verify_refused(nobody, subject.pid, subject.address)


def test_process_of_other_supplementary_groups(nobody: Caller, start_subject: StartSubject) -> None:
    """These the kernel does not compare. Not a defence: that more is not refused than by it."""
    subject = start_subject("anonymous", user=NOBODY._replace(groups=(GAMES.gid,)))
    assert open_pagemaps(NOBODY, [subject.pid]) == [""]
    assert nobody.get_page_flags(subject.pid, subject.address).state[0]

# SPDX-License-Identifier: Apache-2.0
"""`cowctl doctor`: what it makes of what it sees, and that it sees what is there."""

import errno
import json
import os
import socket as sockets
from dataclasses import replace

import cowd
import pytest
from cowd.cli import doctor
from cowd.cli.diagnosis import FAILED, OK, WARNING, iter_checks
from cowd.cli.machine import Machine, find_container_marks, read_machine
from cowd.cli.main import main
from cowd.cli.service import Service, Socket, ask_about_page, examine_socket, write_page
from cowdaemon.errors import CowdError, Reason
from harness.schemas import verify_json

MACHINE = Machine(
    uid=1000,
    has_proc=True,
    is_proc_own=True,
    proc_options="rw,relatime",
    pagemap_errno=0,
    is_dumpable=True,
    has_kpageflags=True,
    has_pagemap_scan=True,
    is_user_namespace_first=True,
    is_pid_namespace_first=True,
    container_marks=(),
)
SOCKET = Socket("/run/cowd/cowd.sock", "the default", access="root:root 0666")
INFO = cowd.ServerInfo(
    version=cowd.__version__,
    page_size_bytes=4096,
    caller=cowd.CallerCredential(1000, 100, (4,)),
    maximum_page_count=1,
    maximum_mapping_count=1,
    maximum_range_count=1024,
    maximum_pid_count=512,
    maximum_concurrent_call_count=1,
    masks=cowd.DisclosureMasks(0, 0),
    kernel_features=cowd.KernelFeatures(
        soft_dirty=False, guard_regions=True, markers=True, pagemap_scan=True, page_copiers=True
    ),
    confinement=cowd.Confinement(seccomp=True, landlock_abi=7),
    granted=cowd.GrantDetail.NONE,
)
SERVICE = Service(serving=True, info=INFO)
ANON = cowd.PageState.ANON


def judge(socket=SOCKET, service=SERVICE, machine=MACHINE, daemon=ANON, kernel=ANON):
    """Return the checks by name."""
    checks = list(iter_checks(socket, service, machine, daemon, kernel))
    assert len({check.check for check in checks}) == len(checks)
    return {check.check: check for check in checks}


def test_where_all_is_well_there_is_nothing_to_do():
    checks = judge()
    assert {check.result for check in checks.values()} == {OK}
    assert {check.next_step for check in checks.values()} == {None}
    assert set(checks) >= {"socket", "service", "kpageflags", "container", "page-daemon"}


@pytest.mark.parametrize(
    ("change", "check", "found", "next_step"),
    [
        ({"mistake": "'x:' is no address"}, "socket", "is no address", "correct COWD_SOCKET"),
        ({"kind": "a file"}, "socket", "a file, not a socket", "correct COWD_SOCKET"),
        ({"stat_errno": errno.ENOENT}, "socket", "does not exist", "systemctl start cowd.socket"),
        ({"stat_errno": errno.ENOENT, "unit": "masked"}, "socket", "not exist", "unmask --now"),
        ({"stat_errno": errno.ENOENT, "unit": "failed"}, "socket", "not exist", "reset-failed"),
        ({"stat_errno": errno.ENOENT, "unit": "not-found"}, "socket", "not exist", "apt install"),
        ({"stat_errno": errno.ENOENT, "unit": "inactive"}, "socket", "not exist", "start cowd."),
        ({"stat_errno": errno.EACCES}, "socket", "closed to you", "namei -l /run"),
        ({"stat_errno": errno.ENOTDIR}, "socket", "Not a directory", "correct COWD_SOCKET"),
        ({"connect_errno": errno.ECONNREFUSED}, "connection", "left behind", "systemctl restart"),
        ({"connect_errno": errno.EACCES}, "connection", "root:root 0666", "SocketMode="),
        ({"connect_errno": errno.ETIMEDOUT}, "connection", "hangs", "journalctl -u cowd"),
        ({"connect_errno": errno.EAGAIN}, "connection", "too many", "journalctl -u cowd"),
        ({"connect_errno": errno.EPROTOTYPE}, "connection", "type", "correct COWD_SOCKET"),
        ({"connect_errno": errno.ENAMETOOLONG}, "connection", "name too long", "systemctl status"),
    ],
)
def test_each_way_of_not_reaching_the_socket_has_its_next_step(change, check, found, next_step):
    socket = replace(SOCKET, **change)
    assert not socket.is_connectable
    checks = judge(socket, None, daemon=None)
    assert checks[check].result == checks["service"].result == FAILED
    assert found in checks[check].found
    assert next_step in checks[check].next_step
    assert "remove" not in checks[check].next_step
    assert "version" not in checks
    assert "page-daemon" not in checks


def test_a_socket_of_ones_own_is_not_started_by_systemd():
    socket = Socket("/tmp/x", "COWD_SOCKET", stat_errno=errno.ENOENT)
    assert judge(socket, None)["socket"].next_step == (
        "as root `cowd --socket /tmp/x`; or leave COWD_SOCKET out for /run/cowd/cowd.sock"
    )


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("FOREIGN_USER_NAMESPACE", "another user namespace"),
        ("FOREIGN_PID_NAMESPACE", "another pid namespace"),
        ("CALLER_GONE", "could not see"),
        ("OF_A_NEWER_DAEMON", "its own sentence"),
    ],
)
def test_a_refusal_is_the_callers_and_says_why(reason, found):
    service = Service(error=cowd.AccessDenied("its own sentence", reason=reason))
    checks = judge(service=service, daemon=None)
    assert (checks["service"].result, checks["caller"].result) == (OK, FAILED)
    assert found in checks["caller"].found
    assert bool(checks["caller"].next_step) == (reason != "OF_A_NEWER_DAEMON")


@pytest.mark.parametrize(
    ("service", "check", "result", "found"),
    [
        (Service(error=cowd.TimedOut("no answer")), "service", FAILED, "no answer"),
        (Service(error=cowd.Unavailable("gone")), "service", FAILED, "gone"),
        (Service(error=cowd.LimitReached("too many")), "service", WARNING, "too many"),
        (replace(SERVICE, serving=False), "service", FAILED, "not well"),
        (replace(SERVICE, info=replace(INFO, version="9.8.7")), "version", WARNING, "9.8.7"),
        (
            replace(SERVICE, info=replace(INFO, caller=cowd.CallerCredential(7, 7, ()))),
            "caller",
            WARNING,
            "takes you for uid 7, gid 7, groups none",
        ),
    ],
)
def test_what_is_wrong_with_the_service(service, check, result, found):
    told = judge(service=service)[check]
    assert told.result == result
    assert found in told.found
    assert told.next_step


@pytest.mark.parametrize(
    ("seccomp", "landlock_abi", "found", "next_step"),
    [
        (False, 7, "no seccomp either", "install libseccomp (`apt install libseccomp2`)"),
        (True, 0, "no Landlock either", "boot a kernel that has Landlock"),
        (False, 0, "no seccomp and no Landlock either", "`systemctl restart cowd`; boot a kernel"),
    ],
)
def test_what_the_daemon_is_not_confined_by(seccomp, landlock_abi, found, next_step):
    info = replace(INFO, confinement=cowd.Confinement(seccomp, landlock_abi))
    told = judge(service=replace(SERVICE, info=info))["confinement"]
    assert told.result == WARNING
    assert found in told.found
    assert next_step in told.next_step


@pytest.mark.parametrize(
    ("change", "check", "result", "found"),
    [
        ({"has_proc": False}, "proc", FAILED, "not mounted"),
        ({"is_proc_own": False}, "proc", WARNING, "another pid namespace"),
        ({"pagemap_errno": errno.EACCES, "is_dumpable": False}, "pagemap", FAILED, "dumpable"),
        ({"pagemap_errno": errno.EPERM}, "pagemap", FAILED, "the kernel refuses"),
        ({"pagemap_errno": errno.EIO}, "pagemap", FAILED, "Input/output"),
        ({"pagemap_errno": errno.ENOENT}, "pagemap", FAILED, "CONFIG_PROC_PAGE_MONITOR"),
        ({"has_kpageflags": False}, "kpageflags", WARNING, "this mount of /proc"),
        (
            {"has_kpageflags": False, "pagemap_errno": errno.ENOENT},
            "kpageflags",
            FAILED,
            "CONFIG_PROC_PAGE_MONITOR",
        ),
        ({"has_pagemap_scan": False}, "pagemap-scan", WARNING, "pages of zeros"),
    ],
)
def test_what_is_wrong_with_the_kernel(change, check, result, found):
    told = judge(service=None, machine=replace(MACHINE, **change))[check]
    assert told.result == result
    assert found in told.found
    assert told.next_step


def test_what_only_this_mount_of_proc_hides_is_well_if_cowd_answers():
    machine = replace(MACHINE, has_kpageflags=False)
    assert judge(machine=machine)["kpageflags"].result == OK


def test_what_cannot_be_tried_is_not_told():
    machine = replace(MACHINE, pagemap_errno=errno.EACCES, has_pagemap_scan=None)
    assert judge(machine=machine)["pagemap-scan"].found.startswith("cannot tell")


def test_hidden_processes_are_mentioned():
    machine = replace(MACHINE, proc_options="rw,hidepid=invisible")
    assert "hidepid=invisible" in judge(machine=machine)["proc"].found
    machine = replace(MACHINE, proc_options="rw,hidepid=off")
    assert judge(machine=machine)["proc"].found == "mounted"


def test_a_container_is_well_if_cowd_answers_in_it():
    machine = replace(
        MACHINE, is_user_namespace_first=False, is_pid_namespace_first=None, container_marks=("m",)
    )
    names = ("user-namespace", "pid-namespace", "container")
    assert [judge(machine=machine)[name].result for name in names] == [OK] * 3
    checks = judge(service=None, machine=machine)
    assert [checks[name].result for name in names] == [WARNING] * 3
    assert checks["pid-namespace"].found.startswith("cannot tell")
    assert checks["user-namespace"].next_step
    assert checks["container"].next_step


@pytest.mark.parametrize("answer", [cowd.PageState.FILE, cowd.Error("refused")])
def test_a_wrong_answer_about_a_known_page_is_a_failure(answer):
    checks = judge(daemon=answer)
    assert (checks["page-daemon"].result, checks["page-local"].result) == (FAILED, OK)
    assert "as cowd" not in checks["page-local"].found
    checks = judge(kernel=answer)
    assert (checks["page-daemon"].result, checks["page-local"].result) == (OK, FAILED)


def test_signs_of_a_container(tmp_path):
    assert find_container_marks(tmp_path, {}) == ()
    (tmp_path / "run/systemd").mkdir(parents=True)
    (tmp_path / "run/systemd/container").write_text("lxc\n")
    (tmp_path / "run/.containerenv").touch()
    (tmp_path / ".dockerenv").touch()
    assert find_container_marks(tmp_path, {"container": "oci"}) == (
        "oci (environment variable container)",
        "lxc (/run/systemd/container)",
        "docker (/.dockerenv)",
        "podman (/run/.containerenv)",
    )


def test_this_machine_is_seen():
    machine = read_machine()
    assert machine.uid == os.geteuid()
    assert machine.has_proc
    assert machine.pagemap_errno == 0
    assert "rw" in machine.proc_options.split(",")


def test_sockets_are_seen_as_they_are(tmp_path, monkeypatch):
    monkeypatch.delenv("COWD_SOCKET", raising=False)
    assert examine_socket(None).origin == "the default"
    path = str(tmp_path / "x")
    monkeypatch.setenv("COWD_SOCKET", path)
    assert examine_socket(None) == Socket(path, "COWD_SOCKET", stat_errno=errno.ENOENT)
    assert examine_socket("x:y").mistake
    assert examine_socket(f"unix:{path}\0").mistake
    assert examine_socket(str(tmp_path)) == Socket(str(tmp_path), "--socket", kind="a directory")
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(path)
        assert examine_socket(path).connect_errno == errno.ECONNREFUSED
        listener.listen(0)
        assert examine_socket(path).is_connectable
        assert examine_socket(path).connect_errno == errno.EAGAIN  # its queue has room for one
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as listener:
        listener.bind(f"{path}-2")
        assert examine_socket(f"{path}-2").connect_errno == errno.EPROTOTYPE


def test_the_kernel_is_right_about_the_page_of_doctor():
    with write_page() as address:
        assert ask_about_page(address, None) is ANON


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "read_machine", lambda: MACHINE)

    def run(*arguments):
        status = main(["doctor", *arguments])
        written = capsys.readouterr()
        verify_json(arguments, written.out)
        return status, written.out, written.err

    return run


def test_json_is_the_documented_schema(fake, run):
    fake.page_elsewhere = "a"
    status, out, err = run("-J")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert {key: told[key] for key in list(told)[:-1]} == {
        "schema": "cowd.doctor/1",
        "socket": fake.path,
        "uid": 1000,
        "ok_count": 15,
        "warning_count": 1,
        "failed_count": 0,
    }
    assert set(told["checks"][0]) == {"check", "result", "found", "next_step"}
    assert [check["check"] for check in told["checks"] if check["result"] != "ok"] == ["version"]


def test_a_failed_check_is_1(fake, run):
    fake.page_elsewhere = "f"
    status, out, _ = run("-no", "check,result")
    assert status == 1
    assert "page-daemon    failed\n" in out
    fake.failure = CowdError(Reason.FOREIGN_USER_NAMESPACE)
    status, out, _ = run("-no", "check,result")
    assert status == 1
    assert "caller         failed\n" in out


def test_no_daemon_is_1_and_the_rest_is_checked(run, tmp_path):
    status, out, err = run("-ro", "check,result", "--socket", str(tmp_path / "x"))
    assert (status, err) == (1, "")
    assert "socket failed\nservice failed\n" in out
    assert "page-local ok\n" in out

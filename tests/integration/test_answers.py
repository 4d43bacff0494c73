# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers beside page flags: mappings, who the caller is, and that it is well."""

import os
from pathlib import Path

from cowdaemon import __version__
from cowdaemon.limits import CALLS_PER_WORKER, MAPPINGS_PER_CALL, PAGES_PER_CALL, PIDS_PER_CALL
from cowproto.v1 import pageflags_pb2, twins_pb2
from harness.author import AuthorsMethod
from harness.daemon import StartDaemon
from harness.kernel_flags import PRIVATE_FLAGS_MASK, SHARED_FLAGS_MASK, VOLATILE_FLAGS
from harness.programs import NOBODY, Caller, StartCaller, StartSubject, parse_pages

LISTINGS = 100
EVERY_FLAG = 2**64 - 1
TRUSTING = """
[[grant]]
group = "nogroup"
detail = "summary"
[disclosure]
full_groups = ["nogroup"]
"""
"""Of the group that nobody is in."""
SPECIAL = (b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]")


def read_maps(pid: int) -> list[pageflags_pb2.Mapping]:
    """Return /proc/PID/maps as the messages that should tell it, read as root."""
    mappings = []
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        extent, permissions, offset, _, inode, *path = line.split(b" ", 5)
        start, _, end = extent.partition(b"-")
        name = path[0].lstrip() if path else b""
        if name in SPECIAL:
            kind = pageflags_pb2.MAPPING_KIND_SPECIAL
        elif permissions.endswith(b"s"):
            kind = pageflags_pb2.MAPPING_KIND_SHARED_FILE
        elif int(inode):
            kind = pageflags_pb2.MAPPING_KIND_PRIVATE_FILE
        else:
            kind = pageflags_pb2.MAPPING_KIND_ANONYMOUS
        mappings.append(
            pageflags_pb2.Mapping(
                start_address=int(start, 16),
                end_address=int(end, 16),
                permissions=permissions.decode(),
                file_offset_bytes=int(offset, 16),
                path=name,
                kind=kind,
            )
        )
    return mappings


def test_mappings_are_those_of_the_kernel(
    nobody: Caller, start_subject: StartSubject, public_directory: Path
) -> None:
    for kind in ("anonymous", "odd-path", "shared-file"):
        arguments = [] if kind == "anonymous" else [public_directory]
        subject = start_subject(kind, *arguments)
        mappings = nobody.list_mappings(subject.pid)
        assert mappings == read_maps(subject.pid)
        kinds = {mapping.kind for mapping in mappings}
        assert kinds >= {
            pageflags_pb2.MAPPING_KIND_PRIVATE_FILE,
            pageflags_pb2.MAPPING_KIND_ANONYMOUS,
            pageflags_pb2.MAPPING_KIND_SPECIAL,
        }
        if kind == "odd-path":
            assert any(b"/odd \\012" in mapping.path for mapping in mappings)
        if kind == "shared-file":
            assert pageflags_pb2.MAPPING_KIND_SHARED_FILE in kinds


def test_mappings_over_several_calls(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("many-mappings", MAPPINGS_PER_CALL + 500)
    response = nobody.call_bytes("ListMappings", pageflags_pb2.ListMappingsRequest(pid=subject.pid))
    first = pageflags_pb2.ListMappingsResponse.FromString(response)
    assert len(first.mappings) == MAPPINGS_PER_CALL
    assert first.next_start_address
    assert nobody.list_mappings(subject.pid) == read_maps(subject.pid)


def test_mappings_listed_twice_at_once_while_they_change(
    start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Both calls read one file of /proc: the kernel would go on in the middle of another's text."""
    subject = start_subject("restless-mappings", 1000)
    request = pageflags_pb2.ListMappingsRequest(pid=subject.pid)
    callers = [start_caller(), start_caller()]
    for _ in range(LISTINGS):
        for caller in callers:
            caller.begin("ListMappings", request)
        for caller in callers:
            answer = pageflags_pb2.ListMappingsResponse.FromString(caller.finish())
            bounds = [
                bound
                for mapping in answer.mappings
                for bound in (mapping.start_address, mapping.end_address)
            ]
            assert bounds == sorted(bounds)


def test_mappings_from_an_address_inside_of_one(
    nobody: Caller, start_subject: StartSubject
) -> None:
    subject = start_subject("anonymous")
    every = read_maps(subject.pid)
    request = pageflags_pb2.ListMappingsRequest(
        pid=subject.pid, start_address=every[3].start_address + 1
    )
    response = pageflags_pb2.ListMappingsResponse.FromString(
        nobody.call_bytes("ListMappings", request)
    )
    assert list(response.mappings) == every[3:]
    request.start_address = every[3].end_address
    response = pageflags_pb2.ListMappingsResponse.FromString(
        nobody.call_bytes("ListMappings", request)
    )
    assert list(response.mappings) == every[4:]


def test_process_that_has_executed_another_program(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """What the daemon holds of the program before is of no use: it opens the process anew."""
    subject = start_subject("anonymous")
    before = nobody.list_mappings(subject.pid)
    subject.write({"execute": True})
    subject.write({"running": True})
    assert subject.read() == {"running": True}  # it has become cat, which says so
    after = nobody.list_mappings(subject.pid)
    assert after == read_maps(subject.pid)
    assert after != before


def test_server_info_tells_the_caller_and_the_limits(nobody: Caller) -> None:
    info = nobody.get_server_info()
    assert info.version == __version__
    assert info.page_size_bytes == os.sysconf("SC_PAGE_SIZE")
    assert (info.caller.uid, info.caller.gid) == (NOBODY.uid, NOBODY.gid)
    assert list(info.caller.groups) == []
    assert info.maximum_page_count == PAGES_PER_CALL
    assert info.maximum_mapping_count == MAPPINGS_PER_CALL
    assert info.maximum_concurrent_call_count == CALLS_PER_WORKER
    assert info.masks.private_flags_mask == PRIVATE_FLAGS_MASK
    assert info.masks.shared_flags_mask == SHARED_FLAGS_MASK
    assert info.granted == pageflags_pb2.GRANT_DETAIL_NONE
    assert info.maximum_pid_count == PIDS_PER_CALL


def test_caller_who_sees_all_flags(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    author: AuthorsMethod,
) -> None:
    """By configuration: the kernel's word."""
    caller = start_caller(socket_path=start_daemon(config=TRUSTING).socket_path)
    info = caller.get_server_info()
    assert info.granted == pageflags_pb2.GRANT_DETAIL_SUMMARY
    pages = parse_pages(start_subject("thp").description)
    frames = author.read_frames(pages[0].pid, pages[0].address, len(pages))
    told = caller.get_page_flags(pages[0].pid, pages[0].address, len(pages))
    assert told.masks == info.masks
    assert told.masks.private_flags_mask == told.masks.shared_flags_mask == EVERY_FLAG
    words = [frame.kpageflags or 0 for frame in frames]
    assert all(word & ~(PRIVATE_FLAGS_MASK | SHARED_FLAGS_MASK) for word in words)
    assert [word & ~VOLATILE_FLAGS for word in told.kpageflags] == [
        word & ~VOLATILE_FLAGS for word in words
    ]


def test_caller_with_many_groups(start_caller: StartCaller, start_subject: StartSubject) -> None:
    groups = tuple(range(70_000, 70_300))
    user = NOBODY._replace(groups=groups[::-1])
    caller = start_caller(user)
    assert tuple(caller.get_server_info().caller.groups) == groups
    subject = start_subject("anonymous", user=user)
    address = subject.description["pages"][0]["address"]
    assert caller.get_page_flags(subject.pid, address).state[0] == pageflags_pb2.PAGE_STATE_ANON


def test_health(nobody: Caller) -> None:
    for service in ("", "cowd.v1.PageFlagsService"):
        request = twins_pb2.HealthCheckRequest(service=service)
        response = nobody.call_bytes("/grpc.health.v1.Health/Check", request)
        status = twins_pb2.HealthCheckResponse.FromString(response).status
        assert status == twins_pb2.HealthCheckResponse.SERVING_STATUS_SERVING

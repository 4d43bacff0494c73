# SPDX-License-Identifier: Apache-2.0
"""Lines of /proc/PID/maps, those that the kernel writes and those that are read in pieces."""

import mmap
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from cowdaemon.worker import mappings as module
from cowdaemon.worker.mappings import (
    Extent,
    Mapping,
    MappingKind,
    find_anonymous,
    iter_mappings,
    number_extents,
    number_mappings,
    parse_mapping,
    read_first_address,
)
from cowproto.v1 import pageflags_pb2

MakeFile = Callable[[bytes], int]

pytestmark = pytest.mark.usefixtures("nothing_is_left")

KINDS = [
    (b"r--p", b"08:01 7", b"/usr/bin/cat", MappingKind.PRIVATE_FILE),
    (b"rw-p", b"00:01 9", b"/memfd:name (deleted)", MappingKind.PRIVATE_FILE),
    (b"rw-p", b"08:01 7", b"/tmp/gone (deleted)", MappingKind.PRIVATE_FILE),
    (b"rw-s", b"08:01 7", b"/tmp/shared", MappingKind.SHARED_FILE),
    (b"rw-s", b"00:01 1027", b"/dev/zero (deleted)", MappingKind.SHARED_FILE),
    (b"rw-s", b"00:01 32769", b"/SYSV00000000 (deleted)", MappingKind.SHARED_FILE),
    (b"rw-s", b"00:0f 9", b"/anon_hugepage (deleted)", MappingKind.SHARED_FILE),
    (b"rw-p", b"00:0f 9", b"/anon_hugepage (deleted)", MappingKind.ANONYMOUS),
    (b"rw-p", b"00:0f 9", b"/mnt/anon_hugepage (deleted)", MappingKind.PRIVATE_FILE),
    (b"rw-p", b"00:05 4", b"/dev/zero", MappingKind.ANONYMOUS),
    (b"---p", b"00:00 0", b"", MappingKind.ANONYMOUS),
    (b"rw-p", b"00:00 0", b"[heap]", MappingKind.ANONYMOUS),
    (b"rw-p", b"00:00 0", b"[stack]", MappingKind.ANONYMOUS),
    (b"rw-p", b"00:00 0", b"[anon:a name]", MappingKind.ANONYMOUS),
    (b"rw-s", b"00:0e 22", b"anon_inode:[perf_event]", MappingKind.SHARED_FILE),
    (b"r-xp", b"00:00 0", b"[vdso]", MappingKind.SPECIAL),
    (b"r--p", b"00:00 0", b"[vvar]", MappingKind.SPECIAL),
    (b"r--p", b"00:00 0", b"[vvar_vclock]", MappingKind.SPECIAL),
    (b"--xp", b"00:00 0", b"[vsyscall]", MappingKind.SPECIAL),
    (b"--xp", b"00:00 0", b"[uprobes]", MappingKind.SPECIAL),
    (b"r--p", b"08:01 7", b"/tmp/[vdso]", MappingKind.PRIVATE_FILE),
]


@pytest.mark.parametrize(("permissions", "file", "path", "kind"), KINDS)
def test_kind(permissions: bytes, file: bytes, path: bytes, kind: MappingKind) -> None:
    line = b"7f0000001000-7f0000003000 %b 0000a000 %b" % (permissions, file)
    line = line.ljust(73) + path if path else line + b" "
    assert parse_mapping(line) == Mapping(
        0x7F0000001000, 0x7F0000003000, permissions.decode(), 0xA000, path, kind
    )


def test_every_kind_is_tried() -> None:
    assert {kind for *_, kind in KINDS} == set(MappingKind)


def test_addresses_and_offsets_of_full_width() -> None:
    line = b"ffffffffff600000-ffffffffff601000 --xp ffffffffffff0000 00:00 0  [vsyscall]"
    mapping = parse_mapping(line)
    assert mapping.start_address == 0xFFFFFFFFFF600000
    assert mapping.end_address == 0xFFFFFFFFFF601000
    assert mapping.file_offset_bytes == 0xFFFFFFFFFFFF0000


@pytest.mark.parametrize(
    "path",
    [
        b"/a b  c ",
        rb"/new\012line",
        b"/\xff\xfe",
        b"/tab\there",
        b"/carriage\rreturn",
        b"/a-b r--p",
    ],
)
def test_path_is_what_the_kernel_wrote(path: bytes) -> None:
    assert parse_mapping(b"1000-2000 r--p 00000000 08:01 7    " + path).path == path


@pytest.mark.parametrize(
    "line", [b"", b"1000-2000", b"1000 r--p 0 08:01 7 /x", b"1000-2000 r--p 0 08:01 inode /x"]
)
def test_anything_else_raises(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a line of"):
        parse_mapping(line)


def test_kinds_are_those_of_the_contract() -> None:
    named = {f"MAPPING_KIND_{kind.name}": kind.value for kind in MappingKind}
    assert {"MAPPING_KIND_UNSPECIFIED": 0, **named} == dict(pageflags_pb2.MappingKind.items())


MAPS = b"".join(
    b"%x000-%x000 r--p 00000000 08:01 %d    /file \xff %d\n" % (page, page + 1, page, page)
    for page in range(16, 48)
)


@pytest.mark.parametrize("read_bytes", [*range(1, 60), len(MAPS) - 1, len(MAPS), len(MAPS) + 1])
def test_lines_split_over_reads_are_put_together(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(module, "_READ_BYTES", read_bytes)
    found = list(iter_mappings(make_file(MAPS)))
    assert found == [parse_mapping(line) for line in MAPS.splitlines()]
    assert len(found) == 32
    assert number_mappings(make_file(MAPS)).tolist() == number(found)


def number(mappings: Iterable[Mapping]) -> list[list[int]]:
    """Return first page, page after the last and kind of each, without numpy."""
    page = mmap.PAGESIZE
    return [[each.start_address // page, each.end_address // page, each.kind] for each in mappings]


@pytest.mark.parametrize(
    "path", [b"", b"[vdso]", b"/carriage\rreturn", b"/a-b r--p", rb"/new\012line"]
)
def test_mappings_that_are_numbered_are_those_that_are_listed(
    make_file: MakeFile, path: bytes
) -> None:
    """Of lines of every kind, and of mappings that were joined between two reads."""
    lines = [
        b"%x-%x %b 0000a000 %b    %b\n" % (place, place + 2 * 4096, permissions, file, name)
        for place, (permissions, file, name, _) in enumerate(
            [*KINDS, (b"r--p", b"08:01 7", path, None)]
        )
        for place in [place * 4096]  # each begins inside the one before
    ]
    maps = make_file(b"".join(lines))
    assert number_mappings(maps).tolist() == number(iter_mappings(maps))
    assert read_first_address(maps) == 0


def test_text_that_is_known_is_not_parsed_again(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for that of long lines, which would take memory: their paths may be as long as one likes.

    Seen to fail with every text parsed, and with every text kept.
    """
    short = b"1000-2000 r--p 00000000 08:01 7   /known only here\n"
    long = b"1000-2000 r--p 00000000 08:01 7   /" + b"x" * mmap.PAGESIZE + b"\n"
    for maps in (short, long):
        assert number_mappings(make_file(maps)).tolist() == [[1, 2, MappingKind.PRIVATE_FILE]]
    monkeypatch.setattr(module, "_EXTENT_LINES", re.compile(b"nothing"))
    assert number_mappings(make_file(short)).tolist() == [[1, 2, MappingKind.PRIVATE_FILE]]
    with pytest.raises(ValueError, match="not lines of"):
        number_mappings(make_file(long))


def test_list_that_is_not_wanted_ends_before_the_next_read(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_BYTES", 1_000)
    asked = []

    def refuse_second() -> None:
        asked.append(None)
        if len(asked) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        number_mappings(make_file(MAPS), refuse_second)
    assert len(asked) == 2


@pytest.mark.parametrize("line", [b"\n", b"1000-2000\n", b"1000-2000 r--p 0 08:01 inode /x\n"])
def test_numbers_of_anything_else_raise(make_file: MakeFile, line: bytes) -> None:
    with pytest.raises(ValueError, match="not lines of"):
        number_mappings(make_file(MAPS + line))


@pytest.mark.parametrize(
    ("rest", "offset"),
    [
        (b"r--p 0000a000 08:01 7    /file", 0xC000),
        (b"rw-p 0000a000 00:0f 9    /anon_hugepage (deleted)", 0xC000),
        (b"rw-p 0000a000 00:05 4    /dev/zero", 0xC000),
        (b"rw-p 00000000 00:00 0 ", 0),
    ],
)
def test_mapping_that_was_joined_between_two_reads_goes_on_where_the_one_before_ended(
    make_file: MakeFile, rest: bytes, offset: int
) -> None:
    maps = make_file(b"1000-3000 %b\n1000-5000 %b\n" % (rest, rest))
    first, second = iter_mappings(maps)
    assert (first.start_address, first.end_address) == (0x1000, 0x3000)
    assert (second.start_address, second.end_address) == (0x3000, 0x5000)
    assert second.file_offset_bytes == offset
    assert second.kind == first.kind


def test_position_of_the_descriptor_does_not_matter(make_file: MakeFile) -> None:
    """It is shared with the opener's and between calls."""
    maps = make_file(MAPS)
    os.lseek(maps, 100, os.SEEK_SET)
    assert len(list(iter_mappings(maps))) == len(list(iter_mappings(maps))) == 32


def split_naively(line: bytes) -> tuple[int, int, bytes, int, int, bytes]:
    extent, permissions, offset, _, inode, *path = line.split(None, 5)
    start, _, end = extent.partition(b"-")
    name = path[0] if path else b""
    return int(start, 16), int(end, 16), permissions, int(offset, 16), int(inode), name


@pytest.fixture
def waiting_cat() -> Iterator[subprocess.Popen[bytes]]:
    """A process that maps nothing more: our own mappings change while they are read."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin
        assert cat.stdout
        cat.stdin.write(b"x")
        cat.stdin.flush()
        assert cat.stdout.read(1) == b"x"
        yield cat


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_address_space_that_has_gone_has_no_mappings(
    waiting_cat: subprocess.Popen[bytes], reaped: bool
) -> None:
    """Of a zombie the kernel reads nothing, of a process that was reaped it says ESRCH."""
    with open(f"/proc/{waiting_cat.pid}/maps", "rb") as maps:
        waiting_cat.kill()
        if reaped:
            waiting_cat.wait()
        else:
            os.waitid(os.P_PID, waiting_cat.pid, os.WEXITED | os.WNOWAIT)
        assert list(iter_mappings(maps.fileno())) == []
        assert number_mappings(maps.fileno()).shape == (0, 3)
        assert read_first_address(maps.fileno()) is None


def test_mappings_of_a_real_process(waiting_cat: subprocess.Popen[bytes]) -> None:
    with open(f"/proc/{waiting_cat.pid}/maps", "rb") as maps:
        lines = maps.read().splitlines()
        found = list(iter_mappings(maps.fileno()))
    assert len(found) == len(lines) > 10
    for mapping, line in zip(found, lines, strict=True):
        start, end, permissions, offset, inode, path = split_naively(line)
        assert mapping[:5] == (start, end, permissions.decode(), offset, path)
        is_private_file = inode != 0 and permissions.endswith(b"p")
        assert (mapping.kind == MappingKind.PRIVATE_FILE) == is_private_file


@pytest.mark.parametrize(
    ("name", "written"),
    [(b"a b", b"a b"), (b"a\nb", rb"a\012b"), (b"\xff", b"\xff"), (b"[heap]", b"[heap]")],
)
@pytest.mark.parametrize("deleted", [False, True])
def test_own_mapping_of_a_file_with_an_odd_name(
    tmp_path: Path, name: bytes, written: bytes, deleted: bool
) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "w+b") as file:
        file.truncate(3 * mmap.PAGESIZE)
        if deleted:
            os.unlink(path)
        with (
            mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, offset=2 * mmap.PAGESIZE),
            open("/proc/self/maps", "rb") as maps,
        ):
            found = [mapping for mapping in iter_mappings(maps.fileno()) if written in mapping.path]
    suffix = b" (deleted)" if deleted else b""
    (mapping,) = [mapping for mapping in found if os.fsencode(tmp_path) in mapping.path]
    assert mapping.path == os.fsencode(tmp_path) + b"/" + written + suffix
    assert mapping.file_offset_bytes == 2 * mmap.PAGESIZE
    assert mapping.end_address - mapping.start_address == mmap.PAGESIZE
    assert mapping.kind == MappingKind.PRIVATE_FILE


def test_pages_of_extents_are_numbered() -> None:
    page = mmap.PAGESIZE
    vsyscall = 0xFFFFFFFFFF600000
    extents = [
        Extent(page, 3 * page, MappingKind.ANONYMOUS),
        Extent(vsyscall, vsyscall + page, MappingKind.SPECIAL),
    ]
    numbered = number_extents(extents)
    assert numbered.tolist() == [
        [1, 3, MappingKind.ANONYMOUS],
        [vsyscall // page, vsyscall // page + 1, MappingKind.SPECIAL],
    ]
    assert find_anonymous(numbered).tolist() == [[1, 3]]
    assert number_extents([]).shape == (0, 3)

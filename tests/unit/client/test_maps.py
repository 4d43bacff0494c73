# SPDX-License-Identifier: Apache-2.0
"""Lines of /proc/PID/maps as mappings."""

import pytest
from cowd import Mapping, MappingKind
from cowd._maps import iter_mappings


def line(start, end, permissions="rw-p", offset=0, inode=77, path=b"/lib/x.so"):
    text = f"{start:x}-{end:x} {permissions} {offset:08x} fe:00 {inode}"
    return text.encode().ljust(73) + path + b"\n"


def test_the_fields_of_a_line():
    assert list(iter_mappings([line(0x7F00, 0x9F00, "r-xp", 0x3000, 12, b"/a b\\012\xff")])) == [
        Mapping(0x7F00, 0x9F00, "r-xp", 0x3000, b"/a b\\012\xff", MappingKind.PRIVATE_FILE)
    ]


@pytest.mark.parametrize(
    ("permissions", "inode", "path", "kind"),
    [
        ("rw-p", 5, b"/lib/x.so", "PRIVATE_FILE"),
        ("rw-p", 5, b"/memfd:x (deleted)", "PRIVATE_FILE"),
        ("rw-s", 5, b"/dev/shm/x", "SHARED_FILE"),
        ("rw-s", 5, b"/dev/zero (deleted)", "SHARED_FILE"),
        ("rw-p", 0, b"", "ANONYMOUS"),
        ("rw-p", 0, b"[heap]", "ANONYMOUS"),
        ("rw-p", 5, b"/dev/zero", "ANONYMOUS"),
        ("rw-p", 5, b"/anon_hugepage (deleted)", "ANONYMOUS"),
        ("r-xp", 0, b"[vdso]", "SPECIAL"),
        ("r--p", 0, b"[vvar]", "SPECIAL"),
        ("--xp", 0, b"[vsyscall]", "SPECIAL"),
    ],
)
def test_what_backs_a_mapping(permissions, inode, path, kind):
    text = line(0x1000, 0x2000, permissions, 0, inode, path)
    assert [mapping.kind.name for mapping in iter_mappings([text])] == [kind]


def test_mappings_that_the_kernel_joined_between_two_reads_do_not_overlap():
    text = line(0x1000, 0x3000) + line(0x1000, 0x5000) + line(0x2000, 0x3000) + line(0x5000, 0x6000)
    assert [
        (mapping.start_address, mapping.end_address, mapping.file_offset_bytes)
        for mapping in iter_mappings([text])
    ] == [(0x1000, 0x3000, 0), (0x3000, 0x5000, 0x2000), (0x5000, 0x6000, 0)]


def test_anonymous_memory_has_no_offset_to_move():
    text = line(0x1000, 0x3000, inode=0) + line(0x1000, 0x5000, inode=0)
    assert [mapping.file_offset_bytes for mapping in iter_mappings([text])] == [0, 0]


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (0, 1 << 64, [0x1000, 0x2000, 0x4000]),
        (0x2000, 0x4000, [0x2000]),
        (0x1FFF, 0x4001, [0x1000, 0x2000, 0x4000]),
        (0x3000, 0x4000, []),
    ],
)
def test_only_what_has_a_part_between_two_addresses(start, end, found):
    text = line(0x1000, 0x2000) + line(0x2000, 0x3000) + line(0x4000, 0x5000)
    assert [mapping.start_address for mapping in iter_mappings([text], start, end)] == found


def test_only_a_newline_ends_a_line():
    """The kernel escapes no other character of a file's name."""
    name = b"/memfd:a\r1000-2000 rw-p 0 00:00 7 /x\x0b\x0c\x1c\x85"
    assert [mapping.path for mapping in iter_mappings([line(0x1000, 0x2000, path=name)])] == [name]


def test_lines_go_across_chunks():
    text = line(0x1000, 0x2000) + line(0x2000, 0x3000, path=b"/" + b"x" * 9999)
    whole = list(iter_mappings([text]))
    assert list(iter_mappings(text[at : at + 7] for at in range(0, len(text), 7))) == whole
    assert [len(mapping.path) for mapping in whole] == [9, 4096]


def test_a_line_of_another_form_is_an_error():
    with pytest.raises(ValueError, match="not a line of /proc/PID/maps"):
        list(iter_mappings([b"1000-2000 rw-p\n"]))

# SPDX-License-Identifier: Apache-2.0
"""The kernel's flags: names against the kernel's header, reading and writing."""

import re
from pathlib import Path

import pytest
from cowd import KernelPageFlags
from cowd._kpageflags import FLAG_DESCRIPTIONS, describe_flags, format_letters, parse_flags

HEADER = Path("/usr/include/linux/kernel-page-flags.h")
OTHER_NAMES = {"ANON": "ANONYMOUS", "IDLE": "IDLE_PAGE"}  # page-types' against the header's


def test_stable_bits_are_those_of_the_header():
    if not HEADER.exists():
        pytest.skip(f"{HEADER} is not installed (linux-libc-dev)")
    defined = dict(re.findall(r"#define\s+KPF_(\w+)\s+(\d+)", HEADER.read_text()))
    assert defined
    for name, bit in defined.items():
        assert KernelPageFlags[OTHER_NAMES.get(name, name)] == 1 << int(bit)


def test_every_flag_is_described_once_and_letters_are_unique():
    assert [flag.bit for flag in FLAG_DESCRIPTIONS] == [
        flag.value.bit_length() - 1 for flag in KernelPageFlags
    ]
    letters = [flag.letter for flag in FLAG_DESCRIPTIONS if flag.letter]
    assert len(set(letters)) == len(letters) == len(FLAG_DESCRIPTIONS) - 2
    assert all(flag.meaning for flag in FLAG_DESCRIPTIONS)


def test_names_and_letters_of_a_copied_page():
    flags = KernelPageFlags(0x5828)
    assert flags.names == ("uptodate", "lru", "mmap", "anonymous", "swapbacked")
    assert format_letters(flags) == "UlMab"


def test_unknown_bits_have_a_name():
    flags = KernelPageFlags(1 << 50 | 1 << 63 | 1 << 5)
    assert flags.names == ("lru", "bit_50", "bit_63")
    assert format_letters(flags) == "l,bit_50,bit_63"
    assert parse_flags("l,bit_50,bit_63") == flags


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("0x5828", 0x5828),
        ("0X5828", 0x5828),
        ("22568", 0x5828),
        ("uptodate,lru,mmap,anonymous,swapbacked", 0x5828),
        ("Uptodate, LRU ,0x5800", 0x5828),
        ("UlMab", 0x5828),
        ("___U_l_____Ma_b", 0x5828),
        ("lru", 1 << 5),  # A name, not the letters l, r and u.
        ("bit_05", 1 << 5),
        ("0", 0),
        (hex(2**64 - 1), 2**64 - 1),
    ],
)
def test_flags_are_read_as_people_write_them(text, flags):
    assert parse_flags(text) == flags


@pytest.mark.parametrize("text", ["", "uptodat", "U?", "lru,", "__", "bit_99", hex(2**64), "-1"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match=r"flag|64 bits"):
        parse_flags(text)


@pytest.mark.parametrize("flag", FLAG_DESCRIPTIONS, ids=lambda flag: flag.name)
def test_what_is_written_is_read_back(flag):
    word = 1 << flag.bit
    assert parse_flags(flag.name) == parse_flags(hex(word)) == parse_flags(str(word)) == word
    assert parse_flags(format_letters(word)) == word
    assert [each.name for each in describe_flags(word)] == [flag.name]


def test_no_name_is_also_what_letters_are_written_as():
    by_letter = {flag.letter: flag.bit for flag in FLAG_DESCRIPTIONS if flag.letter}
    for flag in FLAG_DESCRIPTIONS:
        bits = [by_letter.get(char, -1) for char in flag.name]
        assert -1 in bits or bits != sorted(set(bits))

# SPDX-License-Identifier: Apache-2.0
"""What `cowctl family` says in words, which must be true; see the expected outputs, too."""

import cowd
import pytest
from cowd.cli.family import describe

PAGE = 4096
MEGABYTE = 256


def make_family(*shares):
    """Return a family with a child for each of these, in megabytes."""
    children = [
        cowd.Child(
            pid=8 + number,
            start_time_ticks=5,
            comparison=cowd.Comparison(7, 8 + number, PAGE, 4, 5, ()),
            groups={
                cowd.MemoryGroup.HEAP: cowd.Shares(
                    **{name: count * MEGABYTE for name, count in each.items()}
                )
            },
            page_counts=cowd.PageCounts(),
        )
        for number, each in enumerate(shares)
    ]
    parent = cowd.PageCounts(
        absent=9, file=MEGABYTE, anon=60 * MEGABYTE, anon_swapped=3 * MEGABYTE, zero=9, guard=9
    )
    return cowd.Family(7, 4, PAGE, parent, children, ())


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (
            [{"shared": 60, "copied_by_child": 2, "copied_by_parent": 1, "both": 1}],
            "Of the 64M that process 7 has, its child 8 shares 60M. Copies cost 4M: the child has "
            "written to 3M, or made it anew, the parent to 2M.",
        ),
        (
            [{"shared": 64}],
            "Of the 64M that process 7 has, its child 8 shares 64M. Nothing has been copied.",
        ),
        (
            [{"shared": 63, "unknown": 1, "own": 5}],
            "Of the 64M that process 7 has, its child 8 shares 63M. No copy has been found. 1M "
            "could not be compared.",
        ),
        # The parent's copies are made once: both children see those of before they were forked.
        (
            [
                {"shared": 50, "copied_by_child": 2, "copied_by_parent": 12},
                {"shared": 60, "both": 1, "copied_by_parent": 3},
            ],
            "Of the 64M that process 7 has, each of its 2 children shares 50M to 60M. Copies cost "
            "at least 15M: the children together have written to 3M, or made it anew, the parent "
            "to at least 12M.",
        ),
        # A kernel that does not tell who wrote.
        (
            [{"shared": 60, "different": 4}, {"shared": 60, "different": 4}],
            "Of the 64M that process 7 has, each of its 2 children shares 60M. Copies cost at "
            "least 4M. Of 8M it cannot be told who has written.",
        ),
    ],
)
def test_a_family_is_described(shares, expected):
    """Seen to fail with the parent's copies added up over children, and without swapped pages."""
    assert describe(make_family(*shares)) == expected


def test_a_name_from_elsewhere_steers_nothing(run, monkeypatch):
    """Seen to fail with the name written as it is."""
    monkeypatch.setattr("cowd.family", lambda *_, **__: make_family({"shared": 1}))
    monkeypatch.setattr("cowd.cli.family.read_name", lambda _: "\x1b]0;owned\x07")
    status, out, err = run("family", "7", "-no", "command")
    assert (status, out, err) == (0, r"\x1b]0;owned\x07" + "\n", "")

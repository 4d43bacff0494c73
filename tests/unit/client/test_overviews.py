# SPDX-License-Identifier: Apache-2.0
"""Whole processes: mappings with their pages counted, and two processes compared by mapping."""

import cowd
import pytest
from cowd import MappingKind, PageComparison

PAGE = 4096
START = 0x7F0000000000


@pytest.fixture
def client(fake):
    with cowd.Client(fake.path) as connected:
        yield connected


# Mappings


def test_pages_are_counted_on_request(fake, client, mapping):
    fake.mappings = [mapping(START, 4), mapping(START + 8 * PAGE, 1), mapping(START + 16 * PAGE, 2)]
    assert {each.page_counts for each in client.list_mappings(7).mappings} == {None}
    counts = [each.page_counts for each in cowd.mappings(7, address=fake.path).mappings]
    assert counts == [cowd.PageCounts(absent=absent, anon=1) for absent in (3, 0, 1)]


@pytest.mark.parametrize("change", [{"anon_page_count": 2}, {"absent_page_count": 1}])
def test_pages_that_do_not_add_up_are_an_internal_error(fake, client, change):
    def count(mapping):
        mapping.page_counts.anon_page_count = 1
        mapping.page_counts.absent_page_count = 3
        for name, value in change.items():
            setattr(mapping.page_counts, name, value)

    fake.count_pages = count
    with pytest.raises(cowd.InternalError, match="do not add up"):
        client.list_mappings(7, with_page_counts=True)


def test_a_daemon_that_does_not_count_is_too_old(fake, client):
    fake.count_pages = lambda _: None
    with pytest.raises(cowd.InternalError, match="older than this library"):
        client.list_mappings(7, with_page_counts=True)


# Comparing


def test_a_comparison_is_by_mapping(fake, mapping):
    fake.compared = "==cb..1?" + "2"
    fake.mappings = [mapping(START, 4), mapping(START + 4 * PAGE, 5, b"", "anonymous")]
    compared = cowd.compare(7, 9, address=fake.path)
    assert (compared.pid, compared.other_pid, compared.page_size_bytes) == (7, 9, PAGE)
    assert (compared.start_time_ticks, compared.other_start_time_ticks) == (500, 500)
    first, second = compared.mappings
    assert (first.start_address, first.end_address) == (START, START + 4 * PAGE)
    assert first.mapping == first.other_mapping
    assert second.mapping.kind is MappingKind.ANONYMOUS
    assert sum(each.page_count for each in first.totals) == 4
    assert compared.count(PageComparison.SAME) == 2
    assert compared.count(PageComparison.DIFFERENT) == 2
    assert compared.count(PageComparison.ONLY_SECOND) == 1
    assert sum(each.page_count for each in compared.totals) == 9
    assert len(repr(compared)) < 200


@pytest.fixture(autouse=True)
def both_processes_started_at_once(request):
    """Have the fake daemon say of the second what it says of the first."""
    if "fake" in request.fixturenames:
        fake = request.getfixturevalue("fake")
        fake.other_start_time_ticks = 500


def test_a_mapping_in_several_answers_is_one(fake, mapping):
    fake.maximum_page_count = 2
    fake.compared = "=====.."
    fake.mappings = [mapping(START, 7)]
    [only] = cowd.compare(7, 9, address=fake.path).mappings
    assert [each.page_count for each in only.totals] == [5, 2]


def test_vsyscall_is_left_out(fake, mapping):
    end = 0xFFFFFFFFFF600000
    fake.mappings = [mapping(START, 1), mapping(end, 1, b"[vsyscall]", "special")]
    assert len(cowd.compare(7, 9, address=fake.path).mappings) == 1
    assert fake.asked == [(START, 1)]


def test_other_processes_than_were_listed_are_not_compared(fake):
    """Seen to fail where no start times are sent."""
    fake.listing_count = 10
    fake.start_times = [500, 500, 600]
    with pytest.raises(cowd.FailedPrecondition) as caught:
        cowd.compare(7, 9, address=fake.path)
    assert caught.value.reason == "START_TIME_DIFFERS"


@pytest.mark.parametrize(
    "ask",
    [lambda path: cowd.compare(7, 9, address=path), lambda path: cowd.family(7, address=path)],
)
def test_there_is_no_comparison_without_the_daemon(tmp_path, ask):
    with pytest.raises(cowd.Unavailable, match="needs the daemon: `cowctl doctor` says"):
        ask(str(tmp_path / "nobody"))

# SPDX-License-Identifier: Apache-2.0
"""The client against a server that packs the contract's own messages."""

import pickle
import subprocess
import sys
import time
from array import array
from concurrent.futures import ThreadPoolExecutor

import cowd
import pytest
from cowd._address import resolve_address
from cowdaemon import __version__ as daemon_version
from cowproto.v1 import pageflags_pb2

START = 0x7F0000000000


@pytest.fixture
def client(fake):
    with cowd.Client(fake.path) as connected:
        yield connected


def test_pages_arrive_as_they_were_packed(fake, client):
    fake.pages = "afs?"
    pages = client.get_page_flags(7, START, 4)
    assert pages == cowd.PageFlags(
        pid=7,
        page_size_bytes=4096,
        address=START,
        start_time_ticks=500,
        masks=cowd.DisclosureMasks(0x2012E797D, 0x14A5808),
        kpageflags=array("Q", [0x5828, 0x808, 0, 0]),
        states=bytes([3, 2, 4, 7]),
        attributes=bytes([1, 0, 0, 0]),
    )
    assert pickle.loads(pickle.dumps(pages)) == pages


def test_a_whole_call_of_pages_arrives(fake, client):
    fake.pages = "fa" * 32_768
    pages = client.get_page_flags(7, START, 65_536)
    assert pages.states == bytes([2, 3]) * 32_768
    assert pages.kpageflags == array("Q", [0x808, 0x5828]) * 32_768


def test_mappings_are_listed_to_the_end(fake, client, mapping):
    fake.mappings = [
        mapping(0x1000, 1, b"\xff\n\x1b"),
        mapping(0x3000, 2, kind="shared"),
        mapping(0x5000, 1, b"[heap]", kind="anonymous"),
        mapping(0x6000, 1, b"", kind="anonymous"),
        mapping(0xFFFFFFFFFF600000, 1, b"[vsyscall]", kind="special"),
    ]
    listed = client.list_mappings(7)
    assert [each.start_address for each in listed.mappings] == [
        each.start_address for each in fake.mappings
    ]
    assert listed.mappings[0] == cowd.Mapping(
        0x1000, 0x2000, "rw-p", 0, b"\xff\n\x1b", cowd.MappingKind.PRIVATE_FILE
    )
    assert listed.mappings[1].kind is cowd.MappingKind.SHARED_FILE
    assert (listed.pid, listed.start_time_ticks) == (7, 500)


def test_a_listing_starts_again_when_the_pid_is_reused(fake, client, mapping):
    fake.mappings = [mapping(0x1000 * page, 1) for page in range(1, 6)]
    fake.start_times = [500, 600]
    listed = client.list_mappings(7)
    assert listed.start_time_ticks == 600
    assert len(listed.mappings) == 5


def test_a_listing_gives_up_on_a_pid_that_is_reused_all_the_time(fake, client, mapping):
    fake.mappings = [mapping(0x1000 * page, 1) for page in range(1, 6)]
    fake.start_times = list(range(500, 600))
    with pytest.raises(cowd.FailedPrecondition):
        client.list_mappings(7)


def test_an_expected_start_time_is_kept_to(fake, client):
    fake.start_times = [600]
    for call in (
        lambda: client.list_mappings(7, expected_start_time_ticks=500),
        lambda: client.get_page_flags(7, START, 1, expected_start_time_ticks=500),
    ):
        with pytest.raises(cowd.FailedPrecondition) as caught:
            call()
        assert caught.value.reason == "START_TIME_DIFFERS"


def test_ranges_of_any_length_come_in_parts(fake, client):
    fake.pages = "afs?" * 5
    ranges = ((start, count) for start, count in [(START + 4096, 17), (START, 1)])
    parts = list(client.iter_page_flags(7, ranges))
    assert fake.asked == [(START + 4096, 17), (START, 1)]
    assert [(part.address, len(part.states)) for part in parts] == [
        (START + 4096, 8),
        (START + 9 * 4096, 8),
        (START + 17 * 4096, 1),
        (START, 1),
    ]
    assert b"".join(part.states for part in parts[:3]) == bytes([2, 4, 7, 3] * 4 + [2])


def test_ranges_are_of_the_process_that_answered_first(fake, client):
    fake.maximum_range_count = 2
    parts = client.iter_page_flags(7, [(START, 1)] * 5)
    next(parts), next(parts)
    fake.start_times = [600]
    with pytest.raises(cowd.FailedPrecondition):
        next(parts)
    with pytest.raises(cowd.FailedPrecondition):
        next(client.iter_page_flags(7, [(START, 1)], expected_start_time_ticks=500))


@pytest.mark.parametrize(
    "ranges",
    [None, 7, [7], [(START,)], [("x", 1)], [(START, 1.0)], [(START, -1)], [(2**64, 1)]],
)
def test_ranges_that_are_none_are_invalid(client, ranges):
    with pytest.raises(cowd.InvalidRequest):
        list(client.iter_page_flags(7, ranges))


def test_the_server_describes_itself(fake, client):
    info = client.get_server_info()
    assert info.version == "9.8.7"
    assert info.caller == cowd.CallerCredential(1000, 100, (4, 27))
    assert info.kernel_features == cowd.KernelFeatures(
        soft_dirty=False, guard_regions=False, markers=True, pagemap_scan=True, page_copiers=True
    )
    assert (info.maximum_range_count, info.maximum_pid_count) == (3, 2)
    assert info.granted is cowd.GrantDetail.SUMMARY
    assert info.confinement == cowd.Confinement(seccomp=True, landlock_abi=7)
    assert client.is_serving()
    fake.serving = False
    assert not client.is_serving()


@pytest.mark.parametrize(
    "arguments",
    [(2**31, START, 1), (7, -1, 1), (7, 2**64, 1), (7, 0, -1), ("x", START, 1), (7, None, "x")],
)
def test_numbers_that_do_not_fit_the_contract_are_invalid(client, arguments):
    with pytest.raises(cowd.InvalidRequest):
        client.get_page_flags(*arguments)


def test_arguments_of_wrong_types_are_invalid(client):
    with pytest.raises(cowd.InvalidRequest):
        client.list_mappings("x")
    for arguments in ({"address": 7}, {"address": b"/x"}, {"timeout_seconds": "x"}):
        with pytest.raises(cowd.InvalidRequest):
            cowd.Client(**arguments)


@pytest.mark.parametrize("timeout_seconds", [0, -1, float("nan"), float("inf")])
def test_other_timeouts_are_refused(timeout_seconds):
    with pytest.raises(cowd.InvalidRequest, match="no number of seconds"):
        cowd.Client(timeout_seconds=timeout_seconds)


def test_a_closed_client_is_unavailable(client):
    assert client.is_serving()
    client.close()
    client.close()
    for call in (
        client.get_server_info,
        client.is_serving,
        lambda: client.list_mappings(7),
        lambda: client.get_page_flags(7, START, 1),
        lambda: next(client.iter_page_flags(7, [(START, 1)])),
    ):
        with pytest.raises(cowd.Unavailable, match="client is closed"):
            call()


def test_a_client_closed_during_a_call_is_unavailable(fake, client):
    client.is_serving()
    fake.called = False
    fake.delay_seconds = 0.5
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.get_server_info)
        while not fake.called:
            time.sleep(0.01)  # Nothing to wait on: the call is in a thread of grpc.
        client.close()
        with pytest.raises(cowd.Unavailable, match="this client was closed during the call"):
            call.result()


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/run/x.sock", "/run/x.sock"),
        ("x.sock", "x.sock"),
        ("./a:b", "./a:b"),
        ("unix:/run/x.sock", "/run/x.sock"),
        ("unix:///run/x.sock", "/run/x.sock"),
        ("unix:x.sock", "x.sock"),
        ("unix:/with%20blank", "/with blank"),
        (None, "/run/cowd/cowd.sock"),
        ("", "/run/cowd/cowd.sock"),
    ],
)
def test_addresses_are_paths_or_uris(monkeypatch, address, path):
    monkeypatch.delenv("COWD_SOCKET", raising=False)
    assert resolve_address(address) == path


def test_an_address_that_can_be_no_path_is_refused():
    with pytest.raises(cowd.InvalidRequest, match="it can be no path"):
        resolve_address("a\ud800b")


@pytest.mark.parametrize("address", ["tcp:localhost:80", "dns:///x", "unix:", "unix://host/x"])
def test_other_addresses_are_refused(address):
    with pytest.raises(cowd.InvalidRequest, match="no address of cowd"):
        cowd.Client(address)


def test_the_environment_names_the_socket(monkeypatch):
    monkeypatch.setenv("COWD_SOCKET", "unix:/elsewhere")
    assert resolve_address(None) == "/elsewhere"
    assert resolve_address("/given") == "/given"


def test_paths_with_unusual_characters_are_reached(start_fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").symlink_to(tmp_path / "50% of #1? é")
    (tmp_path / "50% of #1? é").mkdir()
    start_fake(str(tmp_path / "odd" / "s"))
    with cowd.Client(str(tmp_path / "50% of #1? é" / "s")) as client:
        assert client.is_serving()
    with cowd.Client("odd/s") as client:
        assert client.is_serving()


def test_a_proxy_in_the_environment_is_ignored(fake, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with cowd.Client(fake.path) as client:
        assert client.is_serving()


@pytest.mark.parametrize(
    ("kind", "state", "copied"),
    [
        ("PRIVATE_FILE", "ANON", True),
        ("PRIVATE_FILE", "ANON_SWAPPED", True),
        ("PRIVATE_FILE", "FILE", False),
        ("PRIVATE_FILE", "ABSENT", False),
        ("PRIVATE_FILE", "ZERO", False),
        ("PRIVATE_FILE", "GUARD", False),
        ("PRIVATE_FILE", "UNKNOWN", None),
        ("SHARED_FILE", "FILE", None),
        ("ANONYMOUS", "ANON", None),
        ("SPECIAL", "ABSENT", None),
        ("UNSPECIFIED", "ANON", None),
    ],
)
def test_copied_is_said_where_it_has_a_meaning(kind, state, copied):
    assert cowd.is_copied(cowd.MappingKind[kind], cowd.PageState[state]) is copied
    assert cowd.is_copied(None, cowd.PageState[state]) is None


def test_enumerations_are_those_of_the_contract():
    for ours, theirs, prefix in (
        (cowd.PageState, pageflags_pb2.PageState, "PAGE_STATE_"),
        (cowd.PageAttributes, pageflags_pb2.PageAttribute, "PAGE_ATTRIBUTE_"),
        (cowd.MappingKind, pageflags_pb2.MappingKind, "MAPPING_KIND_"),
    ):
        named = {f"{prefix}{each.name}": each.value for each in ours}
        assert {**named, f"{prefix}UNSPECIFIED": 0} == dict(theirs.items())


def test_values_of_a_newer_daemon_are_taken():
    assert cowd.PageState(99) is cowd.PageState.UNKNOWN
    assert cowd.MappingKind(99) is cowd.MappingKind.UNSPECIFIED
    assert cowd.PageAttributes(0b1000001).names == ("exclusive", "bit_06")


def test_exported_names_exist_and_the_version_is_the_daemons():
    assert all(hasattr(cowd, name) for name in cowd.__all__)
    assert cowd.__version__ == daemon_version


def modules_after(code):
    """Return the modules that a fresh interpreter has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split()), done.stdout


@pytest.fixture
def _same_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))


@pytest.mark.usefixtures("_same_path")
def test_the_import_is_cheap():
    modules, _ = modules_after("import cowd")
    assert not modules & {"grpc", "google", "google.protobuf", "numpy", "rich", "click"}
    assert "cowd._local" not in modules


@pytest.mark.usefixtures("_same_path", "fake")
@pytest.mark.parametrize("option", ["", "-J"])
def test_a_query_without_a_terminal_imports_little(option):
    arguments = ["query", "7", f"{START:x}+4", *option.split()]
    modules, written = modules_after(f"from cowd.cli.main import main; main({arguments})")
    assert "grpc" in modules
    assert not modules & {"numpy", "rich", "urllib.parse", "shutil", "cowd._local"}
    assert ("json" in modules) == bool(option)
    assert "0x7f0000000000" in written

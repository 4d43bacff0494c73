# SPDX-License-Identifier: Apache-2.0
"""Takes the pictures in the README: what cowctl shows of a server whose pages are known.

Starts a private daemon from this checkout and the server, asks as an unprivileged user, and leaves
nothing running. Runs as root: `make screenshots`. What a terminal shows becomes an SVG by rich;
`cowctl plot` writes its own.

Usage: render.py [DIRECTORY]
"""

import html
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.daemon import Daemon
from harness.programs import NOBODY, environment
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).resolve().parent
LICENSE = "<!-- SPDX-License-Identifier: Apache-2.0 -->\n"
COLUMNS = 100
MAPS_LINES = 16
SECONDS = 120

# The colours of a light terminal, in the hues of `cowctl plot`.
THEME = TerminalTheme(
    (255, 255, 255),
    (30, 30, 30),
    [
        (30, 30, 30),
        (200, 70, 0),
        (0, 130, 95),
        (166, 122, 0),
        (0, 95, 160),
        (176, 82, 138),
        (20, 120, 170),
        (110, 110, 110),
    ],
)
BLANK = "&#160;"
CHAR_WIDTH = 12.2  # that rich takes
TEXT = re.compile(
    r'(<text class="cowd-r[^"]*" x=")([0-9.]+)(" y="[0-9.]+" textLength=")[0-9.]+'
    r'("[^>]*>)([^<]*)</text>'
)
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def main() -> int:
    """Write the pictures to a directory; return the exit status."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    # Not below /tmp, which may be closed to others; the daemon and user nobody must get in.
    directory = Path(tempfile.mkdtemp(prefix="shop-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        with running_server(directory) as pid, running_daemon(directory) as socket:
            take(pid, socket, directory, target)
    finally:
        shutil.rmtree(directory)
    return 0


@contextmanager
def running_daemon(directory: Path) -> Iterator[str]:
    """Run a daemon; yield where it listens."""
    own = directory / "daemon"
    own.mkdir()
    daemon = Daemon(own)
    try:
        yield str(daemon.socket_path)
    finally:
        daemon.stop()


@contextmanager
def running_server(directory: Path) -> Iterator[int]:
    """Run the server; yield its pid once its pages are as they are to be."""
    place = directory / "srv"
    place.mkdir()
    place.chmod(0o1777)
    server = subprocess.Popen(
        NOBODY.command([sys.executable, str(HERE / "warehouse.py"), str(place)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        cwd="/",
    )
    assert server.stdin
    assert server.stdout
    try:
        if server.stdout.readline() != b"ready\n":
            sys.exit(f"the server ended with status {server.wait()}")
        yield server.pid
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def take(pid: int, socket: str, directory: Path, target: Path) -> None:
    """Ask about the server, and write the pictures."""
    maps = run_cowctl(socket, "maps", str(pid), "--sort=copied", "--color=always")
    draw(f"cowctl maps {pid} --sort copied", maps.splitlines()[:MAPS_LINES], target / "maps.svg")
    family = run_cowctl(socket, "family", str(pid), "--color=always")
    draw(f"cowctl family {pid}", family.splitlines(), target / "family.svg")
    plot = directory / "srv" / "plot.svg"
    run_cowctl(socket, "plot", str(pid), "-o", str(plot), "--rows=12", "--width=1000")
    begin, end, rest = plot.read_text().partition("?>\n")
    (target / "plot.svg").write_text(f"{begin}{end}{LICENSE}{rest}")


def run_cowctl(socket: str, *arguments: str) -> str:
    """Return what cowctl writes, run as nobody."""
    ended = subprocess.run(
        NOBODY.command([sys.executable, "-m", "cowd.cli.main", *arguments, "--socket", socket]),
        env=environment() | {"COLUMNS": str(COLUMNS)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if ended.returncode:
        sys.exit(f"cowctl {arguments[0]} failed: {ended.stderr}")
    return ended.stdout


def draw(title: str, lines: Sequence[str], path: Path) -> None:
    """Write coloured lines as a picture of a terminal that loads no font from anywhere."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    picture = console.export_svg(title=title, theme=THEME, unique_id="cowd")
    picture = re.sub(r"\s*@font-face \{[^}]*\}", "", picture)
    picture = picture.replace("Fira Code, monospace", FONT)
    picture = TEXT.sub(trim, picture)
    path.write_text(LICENSE + picture)


def strip_blanks(text: str) -> str:
    """Return text without the blanks around it."""
    return re.sub(f"^(?:{BLANK})+|(?:{BLANK})+$", "", text)


def trim(match: re.Match[str]) -> str:
    """Return a piece of text without the blanks around it, which some viewers leave out."""
    before, x, between, after, text = match.groups()
    bare = strip_blanks(text)
    plain = html.unescape(text)
    if not bare:
        return ""
    left = len(plain) - len(plain.lstrip("\N{NO-BREAK SPACE}"))
    width = len(plain.strip("\N{NO-BREAK SPACE}")) * CHAR_WIDTH
    place = float(x) + left * CHAR_WIDTH
    return f"{before}{place:.5g}{between}{width:.5g}{after}{bare}</text>"


if __name__ == "__main__":
    sys.exit(main())

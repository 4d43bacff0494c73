# SPDX-License-Identifier: Apache-2.0
"""Tab is pressed in bash, zsh and fish, with the script where a package puts it, and evaluated."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.programs import environment

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
SECONDS = 60.0
"""For a shell to answer: generous, other tests share the machine."""
PROMPT = "READY> "
ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])")

LINES = {
    # what is typed: what Tab makes of it
    "cowctl sta": "cowctl status",
    "cowctl query -o address,pa": "cowctl query -o address,pages",
    "cowctl explain upt": "cowctl explain uptodate",
    "cowctl query --color=al": "cowctl query --color=always",
    "cowctl query --color al": "cowctl query --color always",
    "cowctl query --socket HOME/bin/cow": "cowctl query --socket HOME/bin/cowctl",
    "cowctl query -C PLAIN-A": "cowctl query -C PLAIN-AND-OWN",
    "cowctl query PID --mapping stac": "cowctl query PID --mapping stack",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty home whose bin/ has cowctl as it is in this checkout."""
    program = tmp_path / "bin" / "cowctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cowd.cli.main "$@"\n')
    program.chmod(0o755)
    return tmp_path


def make_environment(home: Path) -> dict[str, str]:
    """Return what the shells run with; bash and zsh read none but `home`'s files."""
    return {
        **environment(),
        "HOME": str(home),
        "ZDOTDIR": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "TERM": "dumb",
    }


def print_script(home: Path, shell: str) -> str:
    """Return the script for a shell."""
    return subprocess.run(
        [home / "bin" / "cowctl", "completion", shell],
        env=make_environment(home),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def write(path: Path, text: str) -> None:
    """Write a file and make the directories above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def require(program: str) -> str:
    """Return the path of a program, or skip without it."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"no {program}: Tab is pressed in it")
    return found


class Terminal:
    """A shell on a terminal of its own. Its prompt is PROMPT."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self._pid, self._terminal = pty.fork()
        if not self._pid:
            os.execve(command[0], command, variables)
        self._read_until(PROMPT)

    def press_tab(self, typed: str) -> str:
        """Return the line that Tab makes of what has been typed."""
        # To the start of the line and to its end: what is there is then written, not run.
        os.write(self._terminal, f"{typed}\t\x01printf '[%s]\\n' '\x05'\r".encode())
        written = self._read_until(f"]\r\n{PROMPT}")
        return written.rpartition("\n[")[2].partition("]")[0].rstrip(" ")

    def close(self) -> None:
        """End the shell."""
        os.close(self._terminal)
        os.waitpid(self._pid, 0)

    def _read_until(self, end: str) -> str:
        written = b""
        while not written.endswith(end.encode()):
            ready, _, _ = select.select([self._terminal], [], [], SECONDS)
            assert ready, f"the shell wrote only {written!r}"
            written = ESCAPES.sub(b"", written + os.read(self._terminal, 65_536))
        return written.decode()


def start_bash(home: Path, is_installed: bool) -> list[str]:
    """Return the command of a bash that completes, with Debian's bash-completion or without."""
    lines = [f"PS1='{PROMPT}'", "bind 'set enable-bracketed-paste off'"]
    if is_installed:
        if not BASH_COMPLETION.exists():
            pytest.skip("no bash-completion: it loads what packages install")
        lines.append(f". {BASH_COMPLETION}")
        write(home / "data/bash-completion/completions/cowctl", print_script(home, "bash"))
    else:
        lines.append('eval "$(cowctl completion bash)"')
    write(home / "rc", "\n".join([*lines, ""]))
    return [require("bash"), "--noprofile", "--rcfile", str(home / "rc"), "-i"]


def start_zsh(home: Path, is_installed: bool) -> list[str]:
    """Return the command of a zsh that completes, with a file in its fpath or without."""
    lines = [
        f"PS1='{PROMPT}'",
        "unsetopt prompt_cr prompt_sp; unset zle_bracketed_paste",
        "fpath=(~/functions $fpath); autoload -U compinit; compinit -u",
    ]
    if is_installed:
        write(home / "functions/_cowctl", print_script(home, "zsh"))
    else:
        lines.append('eval "$(cowctl completion zsh)"')
    write(home / ".zshrc", "\n".join([*lines, ""]))
    # Without global files: those of a distribution may look for completions on their own.
    return [require("zsh"), "--no-global-rcs", "-i"]


@pytest.fixture
def own_process(home: Path) -> Iterator[int]:
    """Start a process that is called PLAIN-AND-OWN; return its pid."""
    shutil.copy(require("sleep"), home / "PLAIN-AND-OWN")
    with subprocess.Popen([home / "PLAIN-AND-OWN", str(SECONDS * 10)]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("is_installed", [True, False], ids=["installed", "evaluated"])
@pytest.mark.parametrize("start", [start_bash, start_zsh])
def test_tab_completes(
    home: Path, own_process: int, start: Callable[[Path, bool], list[str]], is_installed: bool
) -> None:
    terminal = Terminal(start(home, is_installed), make_environment(home))
    try:
        for typed, completed in fill_in(LINES, home, own_process).items():
            assert terminal.press_tab(typed) == completed
    finally:
        terminal.close()


def test_fish_completes(home: Path, own_process: int) -> None:
    fish = require("fish")
    write(home / "config/fish/completions/cowctl.fish", print_script(home, "fish"))
    for typed, completed in fill_in(LINES, home, own_process).items():
        tried = subprocess.run(
            [fish, "--command", "complete --do-complete $argv[1]", typed],
            env=make_environment(home),
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
        )
        words = {line.partition("\t")[0] for line in tried.stdout.splitlines()}
        assert (words, tried.stderr) == ({completed.rpartition(" ")[2]}, "")


def fill_in(lines: dict[str, str], home: Path, pid: int) -> dict[str, str]:
    """Put in what differs between runs."""

    def replace(text: str) -> str:
        return text.replace("HOME", str(home)).replace("PID", str(pid))

    return {replace(typed): replace(completed) for typed, completed in lines.items()}

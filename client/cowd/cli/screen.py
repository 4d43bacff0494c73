# SPDX-License-Identifier: Apache-2.0
"""A terminal that shows the last of several looks alone, in the place of the one before.

However it ends, the terminal is as it was before: by q, Ctrl-C, a signal, an error, or while the
program is stopped with Ctrl-Z.
"""

import io
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import Any, Final, NoReturn, Self, TypeAlias

from cowd.cli.text import cut_text, measure_terminal

__all__ = ["Screen", "Terminated", "end_by_signal"]

# Of terminals since xterm: the screen of full-screen programs and back, the cursor, erasing.
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"
_Handler: TypeAlias = "Callable[[int, FrameType | None], None] | signal.Handlers"

_ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Terminated(BaseException):
    """A signal that ends the program came. Not an Exception: nothing on its way may take it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """A terminal that shows one look at a time; to be entered by `with`.

    Attributes:
        height: lines that fit.
        width: columns that fit.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._keys = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else None
        self._attributes: list[Any] | None = None
        self._woken, self._wake = -1, -1
        self.width = measure_terminal()

    @property
    def height(self) -> int:
        """Lines that fit on the terminal now."""
        return measure_height()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # A change of size is to be drawn at once: its signal wakes who waits for keys.
            self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, self._woken)
            stack.callback(os.close, self._wake)
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._wake))
            for number in _ENDING_SIGNALS:
                stack.enter_context(_handled(number, _terminate))
            stack.enter_context(_handled(signal.SIGTSTP, self._pause))
            stack.enter_context(_handled(signal.SIGWINCH, lambda *_: None))
            sys.stdout.flush()
            stack.callback(self._leave)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        with _handled(signal.SIGINT, signal.SIG_IGN):  # Who is impatient presses it twice.
            self._stack.close()

    def draw(self, write: Callable[[], None]) -> None:
        """Show what `write` writes to standard output, and below it what to standard error."""
        shown, notes = io.StringIO(), io.StringIO()
        self.width = measure_terminal()
        with redirect_stdout(shown), redirect_stderr(notes):
            write()
        lines = shown.getvalue().splitlines()
        below = [cut_text(line, self.width, keep="start") for line in notes.getvalue().splitlines()]
        lines = [*lines[: self.height - len(below)], *below][: self.height]
        text = "\n".join(line + _ERASE_LINE for line in lines)
        _write(f"{_HOME}{text}{_ERASE_BELOW}")

    def wait(self, due: float, redraw: Callable[[], None]) -> bool:
        """Wait until a time of time.monotonic.

        Args:
            due: the time.
            redraw: shows the same again; called when the terminal has another size.

        Returns:
            Whether to go on; not if q was pressed.
        """
        watched = [self._woken] if self._keys is None else [self._woken, self._keys]
        while (left := due - time.monotonic()) > 0:
            ready, _, _ = select.select(watched, [], [], left)
            if self._woken in ready:
                os.read(self._woken, 4096)
                redraw()
            if self._keys in ready:
                pressed = os.read(self._keys, 4096)
                if not pressed:  # The terminal has gone.
                    return False
                if pressed in (b"q", b"Q"):
                    return False
        return True

    def _start(self) -> None:
        if self._keys is not None and os.tcgetpgrp(self._keys) == os.getpgrp():
            self._attributes = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSADRAIN)
        _write(_ENTER)

    def _leave(self) -> None:
        _write(_LEAVE)
        if self._keys is not None and self._attributes is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._attributes)
            self._attributes = None

    def _pause(self, number: int, frame: FrameType | None) -> None:
        """Leave the terminal to the shell until the program goes on."""
        del number, frame
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._start()
        os.write(self._wake, b"\0")  # to draw


def _write(text: str) -> None:
    """Write to the terminal at once.

    Not through sys.stdout: a signal's handler must not, and nothing is to be left in a buffer that
    would be written when the screen is another one.
    """
    rest = text.encode(sys.stdout.encoding, "backslashreplace")
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]


def measure_height() -> int:
    """Return the lines of the terminal, or what LINES says."""
    import shutil

    return max(1, shutil.get_terminal_size().lines)


def end_by_signal(number: int) -> NoReturn:
    """End this process by a signal that it has put off, so that its parent sees what it was."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # It was blocked.


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    raise Terminated(number)


@contextmanager
def _handled(number: int, handler: _Handler) -> Iterator[None]:
    """Have a signal handled inside the block."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)

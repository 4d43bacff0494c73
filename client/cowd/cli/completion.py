# SPDX-License-Identifier: Apache-2.0
"""`cowctl completion`: scripts that complete what is typed after cowctl; and what they ask for.

The scripts are click's. They run cowctl with what they want to know in a variable.
"""

import sys
from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    shell_complete,
)

from cowd.cli.options import COMPLETION_VARIABLE, make_command

__all__ = ["answer_shell", "command"]

_ZSH_END: Final = """
}

compdef %(complete_func)s %(prog_name)s
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
fi
"""


class _JoinedWords(ShellComplete):
    """For shells that take `--option=value` for one word, as click does not when it answers."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return what completes the word, all of it."""
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if not equals or not option.startswith("--"):
            return found
        return [
            CompletionItem(f"{option}={each.value}", help=each.help)
            for each in found
            if each.type == "plain"
        ]


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before, without the = that readline splits words at, and the word."""
        args, incomplete = super().get_completion_args()
        return [each for each in args if each != "="], incomplete


class _Zsh(_JoinedWords, ZshComplete):
    # As a file in fpath, the script of click before 8.1.4 does nothing at the first Tab (its issue
    # 2344), and that of later ones nothing at the second: zsh then runs the whole file again.
    source_template = ZshComplete.source_template.rpartition("\n}\n")[0] + _ZSH_END


class _Fish(_JoinedWords, FishComplete):
    # Words of ours have commas in them, which click's script takes for the end of the word.
    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )


class _Shell(click.Choice):  # type: ignore[type-arg]  # click 8.1 has no such argument
    def get_missing_message(self, *_: object, **__: object) -> str:
        """Name them in a line."""
        return f"Give one of {', '.join(map(str, self.choices))}."


# Or click has changed the text, and the repair did nothing.
assert _Zsh.source_template != ZshComplete.source_template  # noqa: S101
assert _Fish.source_template != FishComplete.source_template  # noqa: S101

_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
for _shell in _SHELLS.values():
    add_completion_class(_shell)


@make_command(
    "completion",
    (),
    {
        'eval "$(cowctl completion bash)"': "In ~/.bashrc: completes in bash.",
        "cowctl completion zsh >~/.zfunc/_cowctl": "Completes in zsh, if ~/.zfunc is in its fpath.",
        "cowctl completion fish >~/.config/fish/completions/cowctl.fish": "Completes in fish.",
    },
)
@click.argument("shell", type=_Shell([*_SHELLS]), metavar="SHELL")
@click.pass_context
def command(ctx: click.Context, shell: str) -> int:
    """Print a script that completes command lines of cowctl.

    SHELL is bash, zsh or fish, and the script is for it to run. Then the Tab key completes
    commands, options and what they take: processes, told by the names of their commands; addresses
    and names of their mappings; columns; kernel flags; files. Debian's package cowctl comes with
    the script for each of the shells.
    """
    # Not its own source(): for bash that runs whatever bash there is, for its version.
    script = ShellComplete.source(
        _SHELLS[shell](ctx.find_root().command, {}, "cowctl", COMPLETION_VARIABLE)
    )
    sys.stdout.write(script.rstrip("\n") + "\n")
    return 0


def answer_shell(cli: click.Command, instruction: str) -> int:
    """Write what a script wants to know, the value of its variable; return the exit status."""
    return shell_complete(cli, {}, "cowctl", COMPLETION_VARIABLE, instruction)

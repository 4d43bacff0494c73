# SPDX-License-Identifier: Apache-2.0
"""The commands of cowctl, as click has them."""

from typing import Final

import click
from cowd.cli.main import cowctl

__all__ = ["COMMANDS", "list_options"]


def _make_contexts() -> dict[str, click.Context]:
    root = click.Context(cowctl, info_name="cowctl", **cowctl.context_settings)
    contexts = {"cowctl": root}
    for name in cowctl.list_commands(root):
        command = cowctl.get_command(root, name)
        assert command
        contexts[name] = click.Context(command, parent=root, info_name=name)
        if isinstance(command, click.Group):
            for form, each in command.commands.items():
                own = click.Context(each, parent=contexts[name], info_name=form)
                contexts[f"{name} {form}"] = own
    return contexts


COMMANDS: Final = _make_contexts()
"""cowctl itself, each of its commands, and each of theirs, in a context of their own."""


def list_options(name: str) -> list[click.Option]:
    """Return every option that a command has, --help as well."""
    context = COMMANDS[name]
    return [each for each in context.command.get_params(context) if isinstance(each, click.Option)]

# SPDX-License-Identifier: Apache-2.0
"""cowctl: the command line. Runs as the caller, with nothing but the caller's privileges.

Each command is a module that asks the daemon through `cowd.Client` and writes through `output`.
Errors travel as exceptions to `main`, which alone knows exit statuses.
"""

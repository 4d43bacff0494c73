# SPDX-License-Identifier: Apache-2.0
"""Pages of every kind, made in the process that runs this: what they are is known by construction.

Standard library only; runs as an unprivileged user. `memory` has the calls of the kernel, the other
modules one subject each. Each `make_*` returns {"pages": [PAGE, ...]} as subjects.py describes it,
or raises UnavailableError where the machine cannot have such pages. Neither DIRTY nor LRU is
expected anywhere: the kernel does not promise them.
"""

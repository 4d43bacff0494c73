# SPDX-License-Identifier: Apache-2.0
"""What gRPC is to be told before it is imported. Importing this module tells it.

Zygote, still root; its workers have it from there. Newer releases of gRPC take a server's
connections in a way that hands a call through more threads, and each thread that is woken takes as
long as all that cowd does about a few pages. The older way can be asked for by name; a release that
does not know the name, as Debian 12's does not, would complain of it in the log.
"""

import mmap
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Final

__all__ = ["choose_listener"]

_VARIABLE: Final = "GRPC_EXPERIMENTS"  # src/core/lib/experiments/config.cc of gRPC
_NEWER_LISTENER: Final = "event_engine_listener"


def choose_listener() -> None:
    """Ask for the older way if gRPC's library knows its name, unless anything is asked for."""
    places = (Path(directory, "grpc/_cython").glob("cygrpc*.so") for directory in sys.path)
    library = next(chain.from_iterable(places), None)  # the one that will be imported
    if library and _has(library, _NEWER_LISTENER.encode()):
        os.environ.setdefault(_VARIABLE, f"-{_NEWER_LISTENER}")


def _has(path: Path, text: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        return content.find(text) >= 0


choose_listener()

# SPDX-License-Identifier: Apache-2.0
"""Programs whose files grant a capability to whoever executes them.

Runs as root in the test process.
"""

import os
import struct
from pathlib import Path

NET_RAW = 13
_DATA = struct.Struct("<5I")
"""struct vfs_cap_data of revision 2, linux/capability.h: permitted, inheritable, and the same."""
_REVISION_2 = 0x02000000


def grant_net_raw(program: Path) -> None:
    """Have the file grant NET_RAW, permitted and not effective."""
    os.setxattr(program, "security.capability", _DATA.pack(_REVISION_2, 1 << NET_RAW, 0, 0, 0))

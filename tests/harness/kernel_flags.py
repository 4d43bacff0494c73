# SPDX-License-Identifier: Apache-2.0
"""The kernel's page flags and cowd's rule of disclosure, written down a second time.

Numbers and names from include/uapi/linux/kernel-page-flags.h and the kernel's tools/mm/page-types;
the rule from the project's SECURITY.md. Nothing here comes from the daemon.
"""

FLAG_BITS = {
    "locked": 0,
    "referenced": 2,
    "uptodate": 3,
    "dirty": 4,
    "lru": 5,
    "active": 6,
    "writeback": 8,
    "mmap": 11,
    "anonymous": 12,
    "swapcache": 13,
    "swapbacked": 14,
    "huge": 17,
    "unevictable": 18,
    "hwpoison": 19,
    "ksm": 21,
    "thp": 22,
    "zero_page": 24,
    "mlocked": 33,
}


def mask_flags(*names: str) -> int:
    """Return the word with the named bits set."""
    return sum(1 << FLAG_BITS[name] for name in names)


SHARED_FLAGS_MASK = mask_flags(
    "mmap", "anonymous", "swapbacked", "huge", "zero_page", "uptodate", "hwpoison", "thp"
)
"""Seen on any page, THP only beside ANON."""
PRIVATE_FLAGS_MASK = (SHARED_FLAGS_MASK & ~mask_flags("thp")) | mask_flags(
    "swapcache",
    "ksm",
    "lru",
    "active",
    "referenced",
    "dirty",
    "writeback",
    "locked",
    "unevictable",
    "mlocked",
)
"""Seen on a page that is certainly private, and in no transparent huge page."""
VOLATILE_FLAGS = mask_flags("locked", "referenced", "dirty", "lru", "active", "writeback")
"""Set and cleared by the kernel at any moment: reclaim ages pages, batches of pages move to the LRU
lists when a processor gets to it, writeback locks. Two reads may differ in these."""
PAGEMAP_PRESENT = 1 << 63
PAGEMAP_FILE = 1 << 61
PAGEMAP_EXCLUSIVE = 1 << 56
PAGEMAP_FRAME = (1 << 55) - 1


def name_flags(word: int) -> set[str]:
    """Return the names of the bits in `word` that have one."""
    return {name for name, bit in FLAG_BITS.items() if word >> bit & 1}


def disclose(entry: int, word: int, private_mask: int, shared_mask: int) -> int:
    """Return what may be seen of `word`, the flags of the frame in pagemap entry `entry`."""
    private = entry & PAGEMAP_EXCLUSIVE and not entry & PAGEMAP_FILE
    if private and not word & mask_flags("thp"):
        return word & private_mask
    if not word & mask_flags("anonymous") and not private_mask & mask_flags("thp"):
        shared_mask &= ~mask_flags("thp")
    return word & shared_mask

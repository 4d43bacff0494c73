/* SPDX-License-Identifier: Apache-2.0
 *
 * For ranges that are mostly empty: PAGEMAP_SCAN finds where something is (Linux commit
 * 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs")
 * (in v6.7)), and only that is read, as tuned_reader does.
 */
#include <sys/ioctl.h>

#include "reading.h"

/* linux/fs.h; Debian 12's is older. */
struct region {
	uint64_t start, end, categories;
};
struct scan {
	uint64_t size, flags, start, end, walk_end, regions, region_count, most_pages;
	uint64_t inverted, all_of, any_of, returned;
};
#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, struct scan)
#define IS_PRESENT (UINT64_C(1) << 3)
#define IS_SWAPPED (UINT64_C(1) << 4)
/*
 * As many as the kernel collects at once. With more, the last part of a scan does not move walk_end
 * on (do_pagemap_scan in fs/proc/task_mmu.c), and its pages are found twice: so seen on 6.18.
 */
#define REGIONS 512

static void read_pages(uint64_t first, uint64_t count)
{
	static struct region regions[REGIONS];
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct scan scan = {
		.size = sizeof(scan),
		.start = first * page_bytes,
		.end = (first + count) * page_bytes,
		.regions = (uintptr_t)regions,
		.region_count = REGIONS,
		.any_of = IS_PRESENT | IS_SWAPPED,
		.returned = IS_PRESENT | IS_SWAPPED,
	};

	for (; scan.start < scan.end; scan.start = scan.walk_end) {
		int found = ioctl(pagemap, PAGEMAP_SCAN_IOCTL, &scan);
		size_t before = listed, pages = 0;

		if (found < 0)
			err(1, "PAGEMAP_SCAN");
		for (int each = 0; each < found; each++)
			pages += (regions[each].end - regions[each].start) / page_bytes;
		reserve(listed + pages);
		for (int each = 0; each < found; each++) {
			size_t part = (regions[each].end - regions[each].start) / page_bytes;

			read_words(pagemap, entries + listed, part, regions[each].start / page_bytes);
			listed += part;
		}
		read_runs(entries + before, flags + before, pages);
	}
}

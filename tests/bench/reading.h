/* SPDX-License-Identifier: Apache-2.0
 *
 * What the C programs of the benchmark share. Each runs as root and answers lines
 *
 *     PID ADDRESS COUNT
 *
 * on standard input, ADDRESS in bytes and COUNT in pages, with a line
 *
 *     SECONDS LISTED PRESENT ANONYMOUS READS
 *
 * of what reading these pages took by CLOCK_MONOTONIC, how many of them stand in the result, how
 * many are present and anonymous, and how many reads of kpageflags it took. Files are opened, and
 * results allocated and counted, outside of that time. A read that falls short ends the program.
 */
#ifndef READING_H
#define READING_H

#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PRESENT (UINT64_C(1) << 63)
#define FRAME ((UINT64_C(1) << 55) - 1)
#define ANONYMOUS (UINT64_C(1) << 12) /* KPF_ANON */

/* Entries of one read of pagemap: half a megabyte, which stays in a core's cache. */
#define PART_PAGES 65536
/* Frames that nobody asked for and that are read all the same, where that spares a read. */
#define GAP_FRAMES 4
/* Frames of one read of kpageflags. */
#define RUN_FRAMES 65536

static int pagemap, kpageflags;
static uint64_t reads;

/* What was read: an entry and its frame's flags, 0 without a frame, for each page listed. */
static uint64_t *entries, *flags;
static size_t listed, room;

/* Reads what is asked for into entries and flags, and sets listed. */
static void read_pages(uint64_t first, uint64_t count);

/* Makes room, and touches it: a round after the first pays for no page faults. */
static inline void reserve(size_t pages)
{
	if (pages <= room)
		return;
	entries = realloc(entries, pages * sizeof(*entries));
	flags = realloc(flags, pages * sizeof(*flags));
	if (!entries || !flags)
		err(1, "%zu pages", pages);
	memset(entries + room, 1, (pages - room) * sizeof(*entries));
	memset(flags + room, 1, (pages - room) * sizeof(*flags));
	room = pages;
}

static inline void read_words(int file, uint64_t *words, size_t count, uint64_t index)
{
	size_t bytes = count * sizeof(*words);
	ssize_t got = pread(file, words, bytes, (off_t)(index * sizeof(*words)));

	if (got < 0)
		err(1, "word %" PRIu64, index);
	if ((size_t)got != bytes)
		errx(1, "word %" PRIu64 ": %zd bytes of %zu", index, got, bytes);
}

/* Reads the flags of so many pages' frames, runs of consecutive frames by one read each. */
static inline void read_runs(const uint64_t *of, uint64_t *into, size_t count)
{
	static uint64_t run[RUN_FRAMES];
	size_t page = 0;

	while (page < count) {
		if (!(of[page] & PRESENT)) {
			into[page++] = 0;
			continue;
		}
		uint64_t lowest = of[page] & FRAME, highest = lowest;
		size_t end = page + 1;
		int is_dense = 1; /* each page's frame follows that of the page before */

		for (; end < count; end++) {
			if (!(of[end] & PRESENT)) {
				is_dense = 0;
				continue;
			}
			uint64_t frame = of[end] & FRAME;

			if (frame < highest || frame > highest + 1 + GAP_FRAMES ||
			    frame >= lowest + RUN_FRAMES)
				break;
			is_dense &= frame == highest + 1;
			highest = frame;
		}
		if (is_dense) {
			read_words(kpageflags, into + page, end - page, lowest);
		} else {
			read_words(kpageflags, run, highest - lowest + 1, lowest);
			for (size_t each = page; each < end; each++)
				into[each] = of[each] & PRESENT ? run[(of[each] & FRAME) - lowest] : 0;
		}
		reads++;
		page = end;
	}
}

static void answer(long pid, uint64_t address, uint64_t count)
{
	char path[64];
	struct timespec start, end;
	uint64_t present = 0, anonymous = 0;

	snprintf(path, sizeof(path), "/proc/%ld/pagemap", pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		err(1, "%s", path);
	reads = 0;
	listed = 0;
	clock_gettime(CLOCK_MONOTONIC, &start);
	read_pages(address / (uint64_t)sysconf(_SC_PAGESIZE), count);
	clock_gettime(CLOCK_MONOTONIC, &end);
	close(pagemap);
	for (size_t page = 0; page < listed; page++) {
		present += !!(entries[page] & PRESENT);
		anonymous += !!(flags[page] & ANONYMOUS);
	}
	printf("%.9f %zu %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
	       (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9,
	       listed, present, anonymous, reads);
	fflush(stdout);
}

int main(void)
{
	long pid;
	uint64_t address, count;

	kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (kpageflags < 0)
		err(1, "/proc/kpageflags");
	while (scanf("%ld %" SCNu64 " %" SCNu64, &pid, &address, &count) == 3)
		answer(pid, address, count);
	return 0;
}

#endif

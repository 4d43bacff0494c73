/* SPDX-License-Identifier: Apache-2.0
 *
 * One plain pass over the pagemap of processes, which is the least that a summary of them takes.
 * Runs as root and answers lines
 *
 *     PID...
 *
 * on standard input with a line
 *
 *     OPENING READING PRESENT ANONYMOUS
 *
 * of the seconds of CLOCK_MONOTONIC that it took to open the files and to read where mappings are,
 * those that it took to read an entry for each of their pages, and how many of these say that they
 * are present, and anonymous. What has ended in between is left out.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PRESENT (UINT64_C(1) << 63)
#define FILE_PAGE (UINT64_C(1) << 61)
#define KERNEL_HALF (UINT64_C(1) << 63)
/* Entries of one read of pagemap: half a megabyte, which stays in a core's cache. */
#define PART_PAGES 65536
#define MOST_PROCESSES 512

struct range {
	uint64_t first, end;
};

struct process {
	int pagemap;
	size_t count, room;
	struct range *ranges;
};

static struct process processes[MOST_PROCESSES];
static uint64_t entries[PART_PAGES], present, anonymous;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Opens pagemap, and lists what is mapped; mappings side by side are one range. */
static int open_process(struct process *process, long pid)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE), start, end;
	static char *line;
	static size_t line_room;
	char path[64];
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%ld/pagemap", pid);
	process->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%ld/maps", pid);
	maps = fopen(path, "re");
	if (process->pagemap < 0 || !maps) {
		if (process->pagemap >= 0)
			close(process->pagemap);
		if (maps)
			fclose(maps);
		return 0;
	}
	process->count = 0;
	while (getline(&line, &line_room, maps) > 0) {
		char *rest;

		start = strtoull(line, &rest, 16);
		end = strtoull(rest + 1, NULL, 16);
		if (start >= KERNEL_HALF)
			continue;
		if (process->count && process->ranges[process->count - 1].end == start / page_bytes) {
			process->ranges[process->count - 1].end = end / page_bytes;
			continue;
		}
		if (process->count == process->room) {
			process->room = process->room * 2 + 64;
			process->ranges = realloc(process->ranges,
						  process->room * sizeof(*process->ranges));
			if (!process->ranges)
				err(1, "%zu ranges", process->room);
		}
		process->ranges[process->count++] = (struct range){start / page_bytes, end / page_bytes};
	}
	fclose(maps);
	return 1;
}

static void read_process(struct process *process)
{
	for (size_t each = 0; each < process->count; each++) {
		uint64_t first = process->ranges[each].first, end = process->ranges[each].end;

		while (first < end) {
			uint64_t pages = end - first < PART_PAGES ? end - first : PART_PAGES;
			ssize_t got = pread(process->pagemap, entries, pages * sizeof(*entries),
					    (off_t)(first * sizeof(*entries)));

			if (got <= 0)
				return;
			for (size_t page = 0; page < (size_t)got / sizeof(*entries); page++) {
				uint64_t is_present = !!(entries[page] & PRESENT);

				present += is_present;
				anonymous += is_present & !(entries[page] & FILE_PAGE);
			}
			first += pages;
		}
	}
}

int main(void)
{
	char *line = NULL;
	size_t line_room = 0;

	while (getline(&line, &line_room, stdin) > 0) {
		int count = 0;
		char *rest = line;
		double start = now(), opened;

		for (long pid; (pid = strtol(rest, &rest, 10)) > 0 && count < MOST_PROCESSES;)
			count += open_process(&processes[count], pid);
		opened = now();
		present = anonymous = 0;
		for (int each = 0; each < count; each++)
			read_process(&processes[each]);
		printf("%.9f %.9f %" PRIu64 " %" PRIu64 "\n", opened - start, now() - opened, present,
		       anonymous);
		fflush(stdout);
		for (int each = 0; each < count; each++)
			close(processes[each].pagemap);
	}
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A process with a gigabyte of pages that makes more of them, one by one, and says how long each
 * took. Answers lines
 *
 *     SECONDS
 *
 * on standard input, after faulting for so long, with a line
 *
 *     MEDIAN P99 FAULTS
 *
 * in seconds by CLOCK_MONOTONIC, and how many there were.
 */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES 4096
#define LOOKED_AT_BYTES ((size_t)1 << 30)
#define FAULTED_PAGES ((size_t)1 << 14)
#define MOST_FAULTS ((size_t)1 << 23)

static float seconds[MOST_FAULTS];

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare(const void *one, const void *other)
{
	float a = *(const float *)one, b = *(const float *)other;

	return (a > b) - (a < b);
}

/* Side by side with what is looked at: both are parts of one mapping, as a heap is. */
static volatile char *map_pages(size_t size_bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *pages = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (pages == MAP_FAILED || madvise(pages, size_bytes, MADV_NOHUGEPAGE))
		err(1, "mmap");
	return pages;
}

static size_t fault(volatile char *pages, double until)
{
	size_t faults = 0;

	while (now() < until && faults + FAULTED_PAGES <= MOST_FAULTS) {
		if (madvise((void *)pages, FAULTED_PAGES * PAGE_BYTES, MADV_DONTNEED))
			err(1, "madvise");
		for (size_t page = 0; page < FAULTED_PAGES; page++) {
			double start = now();

			pages[page * PAGE_BYTES] = 1;
			seconds[faults++] = (float)(now() - start);
		}
	}
	return faults;
}

int main(void)
{
	volatile char *pages = map_pages(LOOKED_AT_BYTES + FAULTED_PAGES * PAGE_BYTES);
	double wanted;

	for (size_t page = 0; page < LOOKED_AT_BYTES / PAGE_BYTES; page++)
		pages[page * PAGE_BYTES] = 1;
	while (scanf("%lf", &wanted) == 1) {
		size_t faults = fault(pages + LOOKED_AT_BYTES, now() + wanted);

		qsort(seconds, faults, sizeof(*seconds), compare);
		printf("%.9f %.9f %zu\n", seconds[faults / 2], seconds[faults * 99 / 100], faults);
		fflush(stdout);
	}
	return 0;
}

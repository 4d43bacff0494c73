/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pages of my private file mapping have been copied? Asked of the kernel, without cowd.
 *
 * Usage: copied FILE      maps four pages of it, which it only reads: the file stays as it is
 *
 * Since Linux 4.2 a process may read its own /proc/self/pagemap, where bit 61 says "the file's own
 * page", 62 "swapped" and 63 "present". A page that is there, but not as the file's, is a copy.
 *
 * What this cannot tell, and cowd can:
 * - the kernel's flags of a page, and so whether it is dirty, merged, part of a huge page ...;
 * - the zero page from a copy. No file on a disk or tmpfs maps it, but a hole of a DAX file does,
 *   and anonymous memory. The ioctl PAGEMAP_SCAN tells it apart, on Linux 6.7 and newer;
 * - a swapped page from a marker that says "swapped" and is none: of userfaultfd's write protection,
 *   of a poisoned page, of a guard region (bit 58 is one as well, on Linux 6.15 and newer).
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char *argv[])
{
	uint64_t entries[4];
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	int file = argc == 2 ? open(argv[1], O_RDONLY) : -1;
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	volatile char *memory = mmap(NULL, 4 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	if (memory == MAP_FAILED || lseek(file, 0, SEEK_END) <= (off_t)(3 * size))
		errx(1, "usage: copied FILE, one of at least four pages that you may read");
	memory[0] = memory[2 * size] = 'w';
	(void)memory[3 * size];
	if (pread(pagemap, entries, sizeof(entries), (off_t)((uintptr_t)memory / size * 8)) != 32)
		err(1, "cannot read /proc/self/pagemap");
	puts("PAGE COPIED");
	for (int page = 0; page < 4; page++) /* present or swapped, and not the file's own */
		printf("%4d %s\n", page, entries[page] >> 62 && !(entries[page] >> 61 & 1) ? "yes" : "no");
	return 0;
}

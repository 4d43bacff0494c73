/* SPDX-License-Identifier: Apache-2.0
 *
 * Executes itself for ever, in turn with its user's privileges and, by a copy, with more. Each image
 * has a page at an address of its own, and is there for a millisecond. Ends with its standard input.
 *
 * Usage: PLAIN PLAIN PRIVILEGED, the paths of two copies of this program; the second one is setuid
 * or has file capabilities.
 */
#define _GNU_SOURCE
#include <err.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* As in test_attack_06_exec_races.py. */
#define PRIVILEGED_PAGE ((void *)0x10000000000)
#define PLAIN_PAGE ((void *)0x10000001000)
#define PAGE_BYTES 0x1000
/* To give this back takes exec some time, which it does under exec_update_lock and before the
 * process has the new image's owner: an open that comes meanwhile is let in as to the old image,
 * waits, and gets the new one (exec_mmap() in fs/exec.c).
 */
#define BALLAST_BYTES ((size_t)4 << 20)

static const struct timespec stay = {.tv_nsec = 1000 * 1000};

static char *map(void *at, size_t bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0);
	char *start = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (start == MAP_FAILED || madvise(start, bytes, MADV_NOHUGEPAGE))
		err(1, "mmap");
	return memset(start, 1, bytes);
}

int main(int argc, char *argv[])
{
	bool is_privileged = getauxval(AT_SECURE);
	struct pollfd input = {.fd = STDIN_FILENO};

	if (argc != 3)
		errx(2, "usage: PLAIN PLAIN PRIVILEGED");
	map(is_privileged ? PRIVILEGED_PAGE : PLAIN_PAGE, PAGE_BYTES);
	if (!is_privileged)
		map(NULL, BALLAST_BYTES);
	if (ppoll(&input, 1, &stay, NULL) > 0)
		return 0;
	if (setresuid(getuid(), getuid(), getuid()))
		err(1, "setresuid");
	execv(argv[is_privileged ? 1 : 2], argv);
	err(1, "execv");
}

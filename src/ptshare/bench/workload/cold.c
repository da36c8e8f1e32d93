// SPDX-License-Identifier: MIT
/*
 * Processes, or threads, that take the processors in turn fault a file in together of which nothing is in
 * memory: each begins at its own part, and goes round. From the start to the last one's end.
 *
 * With dir= the file is on a disk, was written back and dropped; else it is a hole in memory, and what a fault
 * brings in are pages of zeros.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <unistd.h>

static void *common;

static void work(int number, int fd)
{
	size_t part = options.size / options.processes / GRANULE * GRANULE, at;
	const volatile unsigned char *region = common ? common : region_map(fd);
	long before;

	pin(number);
	rehearse();
	add_one(&board->ready);
	wait_for(&board->go, 1);
	before = faults();
	for (at = 0; at < options.size; at += options.stride)
		(void)region[(number * part + at) % options.size];
	board->results[number].faults = faults() - before;
	add_one(&board->done);
	wait_for(&board->leave, 1);
}

static void fill(int fd)
{
	static char block[1 << 20];

	for (size_t at = 0; at < options.size; at += sizeof(block)) {
		if (pwrite(fd, block, sizeof(block), at) != sizeof(block))
			die("write");
	}
	if (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		die("fsync");
}

void cold(void)
{
	int fd = region_open();

	if (options.dir)
		fill(fd);
	pin(0);
	if (options.method == THREADS)
		common = region_map(fd);
	together(work, fd);
}

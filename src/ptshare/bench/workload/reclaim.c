// SPDX-License-Identifier: MIT
/*
 * Pages of a file on a disk that many processes have mapped and touched are taken away: time for each page that
 * is gone afterwards.
 *
 * how=pageout: one process says MADV_PAGEOUT. How=truncate: the file is cut to nothing.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static size_t present(void *at)
{
	size_t pages = options.size / PAGE, count = 0;
	unsigned char *in = malloc(pages);

	if (!in || mincore(at, options.size, in))
		die("mincore");
	for (size_t i = 0; i < pages; i++)
		count += in[i] & 1;
	free(in);
	return count;
}

static void member(int number, int fd)
{
	pin(number);
	region_read(region_map(fd));
	add_one(&board->ready);
	wait_for(&board->leave, 1);
}

static void fill(int fd)
{
	static char block[1 << 20];

	for (size_t at = 0; at < options.size; at += sizeof(block)) {
		if (pwrite(fd, block, sizeof(block), at) != sizeof(block))
			die("write");
	}
	if (fsync(fd))
		die("fsync");
}

/* A new file, as many processes that have it, and how long it takes for each page that is gone after. */
static void one_round(uint64_t *each, uint64_t *all, size_t *gone)
{
	bool truncate = !strcmp(options.how, "truncate");
	int fd = region_open();
	uint64_t start;
	void *at;

	board->ready = board->leave = 0;
	fill(fd);
	at = region_map(fd);
	region_read(at);
	crew_begin(member, 1, options.processes - 1, fd);
	wait_for(&board->ready, options.processes - 1);
	/* What the file system does later about what was written is done then. */
	sync();
	sleep(1);
	*gone = present(at);
	start = now();
	if (truncate ? ftruncate(fd, 0) : madvise(at, options.size, MADV_PAGEOUT))
		die(options.how);
	*all = now() - start;
	if (!truncate)
		*gone -= present(at);
	*each = *gone ? *all / *gone : 0;
	set_all(&board->leave, 1);
	crew_end();
	munmap(at, options.size);
	close(fd);
}

void reclaim(void)
{
	uint64_t each[MOST_PROCESSES], all[MOST_PROCESSES];
	size_t gone = 0;

	pin(0);
	for (int i = 0; i < options.rounds; i++)
		one_round(&each[i], &all[i], &gone);
	print("gone", gone);
	print("page_ns", median(each, options.rounds));
	print("all_ns", median(all, options.rounds));
}

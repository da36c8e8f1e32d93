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
#include <pthread.h>
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

static void *thread(void *number)
{
	work((intptr_t)number, -1);
	return NULL;
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
	int fd = region_open(), threads = options.method == THREADS;
	pthread_attr_t attributes;
	uint64_t start;
	long faulted = 0;
	pthread_t id;

	if (options.dir)
		fill(fd);
	pin(0);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16 * PAGE);
	if (threads)
		common = region_map(fd);
	for (int i = 0; i < options.processes; i++) {
		if (!threads)
			begin(work, i, fd);
		else if (pthread_create(&id, &attributes, thread, (void *)(intptr_t)i))
			die("a thread");
	}
	wait_for(&board->ready, options.processes);
	start = now();
	set_all(&board->go, 1);
	wait_for(&board->done, options.processes);
	print("all_ns", now() - start);
	for (int i = 0; i < options.processes; i++)
		faulted += board->results[i].faults;
	set_all(&board->leave, 1);
	print("faults", threads ? board->results[0].faults : faulted);
}

// SPDX-License-Identifier: MIT
/*
 * Page tables of processes, or threads, that have the region mapped and touched, against as many without it.
 *
 * All levels of all tables count, those that are shared once. In each stretch that a table of the last level
 * maps one page is touched at least, so that all tables are there.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <sys/wait.h>

static void without(int number, int fd)
{
	(void)number;
	(void)fd;
	rehearse();
	add_one(&board->ready);
	wait_for(&board->leave, 1);
}

static void with(int number, int fd)
{
	rehearse();
	region_read(region_map(fd));
	board->results[number].tables = own_tables();
	add_one(&board->ready);
	wait_for(&board->leave, 1);
}

static void *thread(void *at)
{
	if (at)
		region_read(at);
	add_one(&board->ready);
	wait_for(&board->leave, 1);
	return NULL;
}

static void threads(int number, int fd)
{
	void *at = number ? region_map(fd) : NULL;
	pthread_attr_t attributes;
	pthread_t id;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16 * PAGE);
	for (int i = 0; i < options.processes; i++) {
		if (pthread_create(&id, &attributes, thread, at))
			die("a thread");
	}
	wait_for(&board->leave, 1);
}

/* Tables while they are all there, and no longer. */
static long grown(void (*work)(int number, int fd), int number, int count, int fd)
{
	long before = all_tables(), after;

	board->ready = board->leave = 0;
	crew_begin(work, number, count, fd);
	wait_for(&board->ready, options.processes);
	after = all_tables();
	set_all(&board->leave, 1);
	crew_end();
	return after - before;
}

void tables(void)
{
	bool one = options.method == THREADS;
	int fd = region_open(), count = one ? 1 : options.processes;
	long bare, mapped;

	/* Each count once before: what the first ones leave behind in caches is there then. */
	grown(one ? threads : without, 0, count, fd);
	bare = grown(one ? threads : without, 0, count, fd);
	mapped = grown(one ? threads : with, one, count, fd);
	print("bare_kib", bare);
	print("mapped_kib", mapped);
	print("per_process_kib", (double)(mapped - bare) / options.processes);
}

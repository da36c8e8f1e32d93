// SPDX-License-Identifier: MIT
/*
 * A process that has a warm region mapped and touched unmaps it, or ends: how long does that take?
 *
 * Its end is from its last system call to the return of its parent's wait, which is when its memory is gone
 * and the parent runs. The same is measured for a process without the region, and of threads for one thread.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void *thread(void *at)
{
	region_read(at);
	board->stamp = now();
	return NULL;
}

static void hold(int number, int fd)
{
	void *at = region_map(fd);
	pthread_t id;

	(void)number;
	region_write(at);
	region_read(at);
	if (options.method == THREADS) {
		if (pthread_create(&id, NULL, thread, at) || pthread_join(id, NULL))
			die("a thread");
		board->results[0].end = now() - board->stamp;
	}
	add_one(&board->ready);
	wait_for(&board->leave, 1);
}

static void unmap(int number, int fd)
{
	void *at = region_map(fd);
	uint64_t start;

	region_read(at);
	settle();
	start = now();
	if (munmap(at, options.size))
		die("munmap");
	board->results[number].map = now() - start;
}

static void end_mapped(int number, int fd)
{
	(void)number;
	region_read(region_map(fd));
	settle();
	board->stamp = now();
}

static void end_bare(int number, int fd)
{
	(void)number;
	(void)fd;
	rehearse();
	board->stamp = now();
}

/* Begin one and wait for its end: when it had ended, counted from its stamp. */
static uint64_t ended(void (*work)(int number, int fd), int number, int fd)
{
	pid_t pid = begin(work, number, fd);
	int status;

	if (waitpid(pid, &status, 0) != pid || status)
		die("a process");
	return now() - board->stamp;
}

void leave(void)
{
	uint64_t unmapped[MOST_PROCESSES], mapped[MOST_PROCESSES], bare[MOST_PROCESSES];
	int fd = region_open();

	begin(hold, 0, fd);
	wait_for(&board->ready, 1);
	for (int i = 0; i < options.rounds && options.method != THREADS; i++) {
		ended(unmap, i, fd);
		unmapped[i] = board->results[i].map;
		mapped[i] = ended(end_mapped, i, fd);
		bare[i] = ended(end_bare, i, fd);
	}
	set_all(&board->leave, 1);
	crew_end();
	if (options.method == THREADS) {
		print("exit_ns", board->results[0].end);
		return;
	}
	print("munmap_ns", median(unmapped, options.rounds));
	print("exit_ns", median(mapped, options.rounds));
	print("bare_exit_ns", median(bare, options.rounds));
}

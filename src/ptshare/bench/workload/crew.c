// SPDX-License-Identifier: MIT
/* Processes that wait for each other at words that all of them see. They sleep while they wait. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct board *board;

void board_new(void)
{
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (board == MAP_FAILED)
		die("mmap");
}

static void futex(uint32_t *word, int op, uint32_t value)
{
	syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* Until the word has reached the value. */
void wait_for(uint32_t *word, uint32_t value)
{
	uint32_t seen;

	while ((seen = __atomic_load_n(word, __ATOMIC_ACQUIRE)) < value)
		futex(word, FUTEX_WAIT, seen);
}

void add_one(uint32_t *word)
{
	__atomic_fetch_add(word, 1, __ATOMIC_ACQ_REL);
	futex(word, FUTEX_WAKE, INT_MAX);
}

void set_all(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	futex(word, FUTEX_WAKE, INT_MAX);
}

/* A child that does the work and ends. It dies with its parent. */
pid_t begin(void (*work)(int number, int fd), int number, int fd)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	work(number, fd);
	_exit(0);
}

/* Work: has the region in memory, mapped and touched, until told to leave. */
void hold_region(int number, int fd)
{
	void *at = region_map(fd);

	(void)number;
	region_write(at);
	region_read(at);
	add_one(&board->ready);
	wait_for(&board->leave, 1);
}

void crew_begin(void (*work)(int number, int fd), int from, int count, int fd)
{
	for (int number = from; number < from + count; number++)
		begin(work, number, fd);
}

static void (*thread_work)(int number, int fd);

static void *thread(void *number)
{
	thread_work((intptr_t)number, -1);
	return NULL;
}

static void begin_threads(void (*work)(int number, int fd))
{
	pthread_attr_t attributes;
	pthread_t id;

	thread_work = work;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16 * PAGE);
	for (int i = 0; i < options.processes; i++) {
		if (pthread_create(&id, &attributes, thread, (void *)(intptr_t)i))
			die("a thread");
	}
}

/*
 * All do their work at once, as processes or as threads, which get no file: each is ready, waits for go, notes
 * its faults, is done, and waits for leave, so that the end of the first is not in the time of the last. Prints
 * the time from the start to the last one's end, and the faults of all.
 */
void together(void (*work)(int number, int fd), int fd)
{
	uint32_t others = board->ready;
	long faulted = 0;
	uint64_t start;

	if (options.method == THREADS)
		begin_threads(work);
	else
		crew_begin(work, 0, options.processes, fd);
	wait_for(&board->ready, others + options.processes);
	start = now();
	set_all(&board->go, 1);
	wait_for(&board->done, options.processes);
	print("all_ns", now() - start);
	for (int i = 0; i < options.processes; i++)
		faulted += board->results[i].faults;
	set_all(&board->leave, 1);
	print("faults", options.method == THREADS ? board->results[0].faults : faulted);
}

/* All children have ended, or one has failed. */
void crew_end(void)
{
	int status;

	while (wait(&status) > 0) {
		if (status)
			die("a process");
	}
	if (errno != ECHILD)
		die("wait");
}

/* Processes take the processors in turn. */
void pin(int number)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(number % options.cpus, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

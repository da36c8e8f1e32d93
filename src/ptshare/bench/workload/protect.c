// SPDX-License-Identifier: MIT
/*
 * Write access to a region is taken from all processes that have it, and given back: from the start of the
 * first call to the moment when it is so for all.
 *
 * Where each process has tables of its own, each is sent a signal, calls mprotect itself, and says that it
 * has. With shared tables, or in one process, it is one call.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static void *mine;
static pid_t pids[MOST_PROCESSES];

static void change(int protection)
{
	if (mprotect(mine, options.size, protection))
		die("mprotect");
}

static void on_signal(int number)
{
	change(number == SIGUSR1 ? PROT_READ : PROT_READ | PROT_WRITE);
	add_one(&board->done);
}

static void member(int number, int fd)
{
	struct sigaction action = { .sa_handler = on_signal };

	pin(number);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	mine = region_map(fd);
	region_write(mine);
	add_one(&board->ready);
	wait_for(&board->leave, 1);
}

static void *thread(void *at)
{
	region_write(at);
	add_one(&board->ready);
	wait_for(&board->leave, 1);
	return NULL;
}

static bool one_call(void)
{
	return options.method == SHARED_2M || options.method == SHARED_1G || options.method == THREADS;
}

static uint64_t for_all(int protection)
{
	uint64_t start;

	board->done = 0;
	start = now();
	if (!one_call()) {
		for (int i = 1; i < options.processes; i++)
			kill(pids[i], protection & PROT_WRITE ? SIGUSR2 : SIGUSR1);
	}
	change(protection);
	if (!one_call())
		wait_for(&board->done, options.processes - 1);
	return now() - start;
}

void protect(void)
{
	uint64_t taken[MOST_PROCESSES], given[MOST_PROCESSES];
	int fd = region_open();
	pthread_attr_t attributes;
	pthread_t id;

	pin(0);
	mine = region_map(fd);
	region_write(mine);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16 * PAGE);
	for (int i = 1; i < options.processes; i++) {
		if (options.method != THREADS)
			pids[i] = begin(member, i, fd);
		else if (pthread_create(&id, &attributes, thread, mine))
			die("a thread");
	}
	wait_for(&board->ready, options.processes - 1);
	for (int i = 0; i < options.rounds; i++) {
		region_write(mine);
		taken[i] = for_all(PROT_READ);
		given[i] = for_all(PROT_READ | PROT_WRITE);
	}
	set_all(&board->leave, 1);
	print("take_ns", median(taken, options.rounds));
	print("give_ns", median(given, options.rounds));
}

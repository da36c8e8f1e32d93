/* SPDX-License-Identifier: MIT */
/*
 * Threads that map, use, protect and unmap shared memory, some of them
 * cancelled, while signal handlers do the same and the process forks. For
 * SECONDS; "ok" at the end. A program that knows nothing of shared page tables.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH (size_t)((8 << 20) + 12288)

static atomic_bool over;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(1);
}

static char *map(void)
{
	char *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	return memory;
}

static void use(unsigned int what)
{
	char *memory = map();

	memory[0] = memory[LENGTH - 1] = 1;
	if (what % 4 == 1 && mprotect(memory + 4096, 4096, PROT_READ))
		fail("mprotect");
	if (what % 4 == 2 && munmap(memory + LENGTH - 4096, 4096))
		fail("munmap of a page");
	if (memory[0] != 1)
		fail("memory");
	if (munmap(memory, LENGTH))
		fail("munmap");
}

static void *worker(void *argument)
{
	for (unsigned int what = (uintptr_t)argument; !over; what++)
		use(what);
	return NULL;
}

static void *cancelled(void *argument)
{
	(void)argument;
	for (;;) {
		use(0);
		pthread_testcancel();
	}
	return NULL;
}

static void handler(int number)
{
	const int error = errno;

	(void)number;
	use(0);
	errno = error;
}

static void *canceller(void *argument)
{
	(void)argument;
	while (!over) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, cancelled, NULL))
			fail("pthread_create");
		usleep(20000);
		pthread_cancel(thread);
		pthread_join(thread, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	const struct itimerval often = { { 0, 5000 }, { 0, 5000 } };
	const struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	pthread_t threads[4];

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (uintptr_t number = 0; number < 3; number++)
		pthread_create(threads + number, NULL, worker, (void *)number);
	pthread_create(threads + 3, NULL, canceller, NULL);
	while (time(NULL) < end) {
		int status;
		const pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (pid == 0) {
			use(0);
			use(1);
			_exit(0);
		}
		while (waitpid(pid, &status, 0) < 0)
			if (errno != EINTR)
				fail("waitpid");
		if (status)
			fail("child");
	}
	over = true;
	for (int number = 0; number < 4; number++)
		pthread_join(threads[number], NULL);
	puts("ok");
	return 0;
}

// SPDX-License-Identifier: MIT
/*
 * A process that makes system calls and touches memory when it is told to, and tells what it saw.
 *
 * Its own memory is all there before it is asked anything, so that what it measures is what the asked-for
 * access costs. It takes requests from a socket that it has inherited; see struct request. x86-64 only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum op { OP_SYSCALL, OP_LOAD, OP_STORE, OP_FETCH, OP_FORK, OP_EXEC, OP_STAY_AWAKE };

/* args: of OP_SYSCALL the number and six arguments; of OP_STAY_AWAKE a count; of OP_FORK and OP_EXEC the
 * descriptor of the socket of whoever answers from then on, and of OP_FORK who it is. data is at a known
 * address while the request is served, for what system calls take by address. */
struct request {
	uint32_t op;
	uint32_t length;
	int64_t args[7];
	char data[192];
};

/* error is an errno, or of an access 1 if the signal was for another address; faults: minor and major ones */
struct reply {
	int64_t value;
	int32_t error;
	int32_t signal;
	int64_t faults;
};

static struct request request;
static sigjmp_buf back;
static volatile uintptr_t target;
static volatile int elsewhere, fetched, awake;
static char scratch[64];

static void on_signal(int number, siginfo_t *info, void *context)
{
	ucontext_t *frame = context;

	if (number == SIGTRAP) {
		uintptr_t at = (uintptr_t)frame->uc_mcontext.gregs[REG_RIP];

		/* The call has been made, and nothing fetched there yet. */
		if (at == target && !fetched) {
			fetched = 1;
			return;
		}
	}
	elsewhere = number != SIGTRAP && (uintptr_t)info->si_addr != target;
	siglongjmp(back, number);
}

/* Execute one instruction at an address: a trap comes after it. The registers that an instruction made of
 * zeros writes through point to scratch memory. */
static void fetch(uintptr_t at)
{
	fetched = 0;
	asm volatile("pushfq\n\t"
		     "orq $0x100, (%%rsp)\n\t"
		     "popfq\n\t"
		     "call *%%rdx\n\t"
		     :
		     : "d"(at), "a"(scratch + 32)
		     : "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

static long faults_so_far(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static void touch(const struct request *asked, struct reply *answer)
{
	/* Volatile: they are read after a jump back into this function. */
	volatile uint8_t *volatile at = (uint8_t *)asked->args[0];
	volatile long before;
	int number;

	target = (uintptr_t)at;
	before = faults_so_far();
	number = sigsetjmp(back, 0);
	if (!number) {
		if (asked->op == OP_LOAD)
			answer->value = *at;
		else if (asked->op == OP_STORE)
			*at = (uint8_t)asked->args[1];
		else
			fetch((uintptr_t)at);
	} else if (number != SIGTRAP) {
		answer->signal = number;
		answer->error = elsewhere;
	}
	answer->faults = faults_so_far() - before;
}

static void answer_with(int fd, const struct reply *answer)
{
	if (send(fd, answer, sizeof(*answer), MSG_NOSIGNAL) != sizeof(*answer))
		_exit(3);
}

/* All that it will write to is its own from then on: after a fork parent and child have it together. */
static void have_own_memory(void)
{
	/* Nothing is there: a signal handler runs, too. */
	struct request own = {.args = {8, 0}};
	struct reply answer = {0};

	for (own.op = OP_LOAD; own.op <= OP_FETCH; own.op++)
		touch(&own, &answer);
	memset(&request, 0, sizeof(request));
	scratch[32] = 0;
}

/* Who begins to answer says so, and where its data is. */
static void hello(int fd)
{
	struct reply answer;

	have_own_memory();
	answer = (struct reply){.value = (int64_t)(uintptr_t)request.data, .error = getpid()};
	answer_with(fd, &answer);
}

static int become(int fd)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", fd);
	execl("/proc/self/exe", "ptshare-agent", number, NULL);
	return errno;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
	const int signals[] = {SIGSEGV, SIGBUS, SIGTRAP};
	int fd = argc > 1 ? atoi(argv[1]) : 0;

	for (size_t at = 0; at < sizeof(signals) / sizeof(*signals); at++)
		sigaction(signals[at], &action, NULL);
	signal(SIGCHLD, SIG_IGN);
	hello(fd);
	for (;;) {
		struct reply answer = {0};
		ssize_t got = recv(fd, &request, sizeof(request), awake ? MSG_DONTWAIT : 0);

		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got <= 0)
			return 0;
		if (awake)
			awake--;
		switch (request.op) {
		case OP_SYSCALL: {
			const int64_t *args = request.args;

			answer.value = syscall(args[0], args[1], args[2], args[3], args[4], args[5], args[6]);
			answer.error = answer.value == -1 ? errno : 0;
			break;
		}
		case OP_FORK: {
			pid_t child = fork();

			if (child == 0) {
				fd = (int)request.args[0];
				hello(fd);
				continue;
			}
			answer.value = child;
			answer.error = child < 0 ? errno : 0;
			have_own_memory();
			break;
		}
		case OP_EXEC:
			answer.error = become((int)request.args[0]);
			break;
		case OP_STAY_AWAKE:
			/* On its processor, which keeps its translations, until so many more requests have come. */
			awake = (int)request.args[0];
			break;
		default:
			touch(&request, &answer);
		}
		answer_with(fd, &answer);
	}
}

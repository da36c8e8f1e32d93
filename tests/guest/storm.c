/* SPDX-License-Identifier: MIT */
/*
 * storm FD SLOT: store into a slot of the first page of a file, mapped with
 * shared page tables, at full speed until killed. Stores that the page's
 * protection refuses are tried again.
 *
 * In C because the store has to be one instruction in a tight loop: what is
 * tested is whether a CPU goes on with an old TLB entry.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MAP_SHARED_PT 0x200000

static sigjmp_buf again;

static void refused(int number)
{
	(void)number;
	/* Let the CPU go, or 64 of these do nothing but fault. */
	usleep(1000);
	siglongjmp(again, 1);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = refused, .sa_flags = SA_NODEFER };
	volatile uint64_t *slots;

	if (argc != 3)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	slots = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_SHARED_PT, atoi(argv[1]), 0);
	if (slots == MAP_FAILED)
		return 1;
	slots += atoi(argv[2]);
	sigaction(SIGSEGV, &action, NULL);
	sigsetjmp(again, 0);
	for (;;)
		++*slots;
}

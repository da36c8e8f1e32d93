/* SPDX-License-Identifier: MIT */
/*
 * A system call in which one allocation of the kernel fails: the nth from here
 * on, by /proc/thread-self/fail-nth (Documentation/fault-injection in the
 * kernel's source). A library that faultinject.py loads.
 *
 * In C because an interpreter between the write that arms the failure and the
 * call would allocate memory itself.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <errno.h>
#include <linux/rseq.h>
#include <sys/syscall.h>

/* Of the C library, 2.35 and later: where in a thread's memory its rseq area is. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));

/* What the C library registers; Documentation of rseq in its manual. */
#define RSEQ_SIZE 32
#define RSEQ_SIG 0x53053053

/*
 * On the way back to a thread that it has moved to another CPU the kernel
 * writes to the thread's rseq area. That may take an allocation, after a fork
 * for a copy of the page, and if that is the one to fail the thread gets a
 * SIGSEGV. So it is not registered while failures are armed.
 */
static void rseq(int flags)
{
	if (&__rseq_offset)
		syscall(SYS_rseq,
			(char *)__builtin_thread_pointer() + __rseq_offset,
			RSEQ_SIZE, flags, RSEQ_SIG);
}

/*
 * Make the call @call[0] with the arguments @call[1] to @call[6]. @control is
 * open on fail-nth; with @nth 0 nothing fails. A child of fork ends at once.
 *
 * Returns what the call did, or its error number, negative. @injected tells
 * whether there was an nth allocation to fail.
 */
long call_failing_nth(int control, unsigned int nth, const long call[7],
		      int *injected)
{
	const long number = call[0];	/* a child need not have the memory of @call */
	char text[16] = "0";
	long result;
	int length;

	rseq(RSEQ_FLAG_UNREGISTER);
	/* What is used between arming and disarming has to be there already. */
	if (pwrite(control, text, 1, 0) != 1 ||
	    pread(control, text, sizeof(text), 0) < 1)
		abort();

	length = snprintf(text, sizeof(text), "%u", nth);
	if (pwrite(control, text, length, 0) != length)
		abort();
	result = syscall(number, call[1], call[2], call[3], call[4], call[5],
			 call[6]);
	if (result == 0 && number == SYS_clone)
		syscall(SYS_exit_group, 0);
	if (result == -1)
		result = -errno;
	/* After a fork this is copied on write: by a store, since pread() would not try again. */
	*(volatile char *)text = '0';
	if (pread(control, text, sizeof(text), 0) < 1)
		abort();
	*injected = nth && !atoi(text);
	if (pwrite(control, "0", 1, 0) != 1)
		abort();
	rseq(0);
	return result;
}

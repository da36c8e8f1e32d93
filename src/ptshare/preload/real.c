/* SPDX-License-Identifier: MIT */
/*
 * The calls as they were before this library: the next library's, and system
 * calls until those are known, since other constructors may come first.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *plain_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

static int plain_munmap(void *addr, size_t length)
{
	return syscall(SYS_munmap, addr, length);
}

static void *plain_mremap(void *addr, size_t old, size_t new, int flags, ...)
{
	va_list rest;
	void *to;

	va_start(rest, flags);
	to = va_arg(rest, void *);
	va_end(rest);
	return (void *)syscall(SYS_mremap, addr, old, new, flags, to);
}

static int plain_mprotect(void *addr, size_t length, int prot)
{
	return syscall(SYS_mprotect, addr, length, prot);
}

static int plain_pkey_mprotect(void *addr, size_t length, int prot, int pkey)
{
	if (pkey == -1)		/* as the C library does, for kernels without keys */
		return syscall(SYS_mprotect, addr, length, prot);
	return syscall(SYS_pkey_mprotect, addr, length, prot, pkey);
}

static int plain_madvise(void *addr, size_t length, int advice)
{
	return syscall(SYS_madvise, addr, length, advice);
}

static int plain_mlock(const void *addr, size_t length)
{
	return syscall(SYS_mlock, addr, length);
}

static int plain_mlock2(const void *addr, size_t length, unsigned int flags)
{
	return syscall(SYS_mlock2, addr, length, flags);
}

static int plain_munlock(const void *addr, size_t length)
{
	return syscall(SYS_munlock, addr, length);
}

static void *plain_shmat(int id, const void *addr, int flags)
{
	return (void *)syscall(SYS_shmat, id, addr, flags);
}

static int plain_shmdt(const void *addr)
{
	return syscall(SYS_shmdt, addr);
}

void *(*real_mmap)(void *, size_t, int, int, int, off_t) = plain_mmap;
int (*real_munmap)(void *, size_t) = plain_munmap;
void *(*real_mremap)(void *, size_t, size_t, int, ...) = plain_mremap;
int (*real_mprotect)(void *, size_t, int) = plain_mprotect;
int (*real_pkey_mprotect)(void *, size_t, int, int) = plain_pkey_mprotect;
int (*real_madvise)(void *, size_t, int) = plain_madvise;
int (*real_mlock)(const void *, size_t) = plain_mlock;
int (*real_mlock2)(const void *, size_t, unsigned int) = plain_mlock2;
int (*real_munlock)(const void *, size_t) = plain_munlock;
void *(*real_shmat)(int, const void *, int) = plain_shmat;
int (*real_shmdt)(const void *) = plain_shmdt;

void real_resolve(void)
{
	void *found;

#define RESOLVE(name) do { \
		found = dlsym(RTLD_NEXT, #name); \
		if (found) \
			real_##name = (__typeof__(real_##name))found; \
	} while (0)
	RESOLVE(mmap);
	RESOLVE(munmap);
	RESOLVE(mremap);
	RESOLVE(mprotect);
	RESOLVE(pkey_mprotect);
	RESOLVE(madvise);
	RESOLVE(mlock);
	RESOLVE(mlock2);
	RESOLVE(munlock);
	RESOLVE(shmat);
	RESOLVE(shmdt);
#undef RESOLVE
}

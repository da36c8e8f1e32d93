/* SPDX-License-Identifier: MIT */
/*
 * A library for LD_PRELOAD that has an unmodified program's large shared
 * mappings share their page tables. docs/run.md says what it does and what not.
 *
 * It may be loaded into any process, and be called before its own constructor
 * or in a signal handler: it allocates nothing, and while it holds its lock it
 * makes system calls alone, with all signals blocked.
 */
#ifndef PTSHARE_PRELOAD_H
#define PTSHARE_PRELOAD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* include/uapi/asm-generic/mman-common.h; ptshare.abi has it for Python. */
#ifndef MAP_SHARED_PT
#define MAP_SHARED_PT 0x200000
#endif

#define NAME_SIZE 256

/* A mapping that was made with MAP_SHARED_PT, or was until it was converted. */
struct region {
	uintptr_t start;	/* a multiple of the granule; 0: the place is free */
	size_t length;		/* bytes that the program knows of, whole pages */
	size_t whole;		/* bytes mapped, whole granules */
	off_t offset;		/* in the file */
	int prot;
	bool shared;		/* false: converted, kept for its anchor */
	bool advised;		/* madvise() or mlock() said something of it */
	bool writable;		/* the file was open for writing, too */
	int fd;			/* a descriptor that only this library uses, or -1 */
	dev_t dev;
	ino_t ino;
	uintptr_t anchor;	/* where shmat() attached the segment, or 0 */
	char name[NAME_SIZE];	/* as /proc/PID/maps has it */
};

/* What a thread gives up while it has the lock. */
struct state {
	sigset_t signals;
	int cancel;
};

/* regions.c: which there are. All but regions_touch() under the lock. */

/* Is there a region in [start, end)? Without the lock. */
bool regions_touch(uintptr_t start, uintptr_t end);

void regions_lock(struct state *saved);
void regions_unlock(const struct state *saved);

/* The next region in [start, end) after @last, or the first; NULL: none. */
struct region *regions_next(uintptr_t start, uintptr_t end, struct region *last);

/* A place for a region at [start, start + whole); NULL: the table is full. */
struct region *regions_add(uintptr_t start, size_t whole);
void regions_drop(struct region *region);
bool regions_full(void);

/* After a region's start or length has changed. */
void regions_moved(const struct region *region);

/* real.c: the calls as they were before this library. */
extern void *(*real_mmap)(void *, size_t, int, int, int, off_t);
extern int (*real_munmap)(void *, size_t);
extern void *(*real_mremap)(void *, size_t, size_t, int, ...);
extern int (*real_mprotect)(void *, size_t, int);
extern int (*real_pkey_mprotect)(void *, size_t, int, int);
extern int (*real_madvise)(void *, size_t, int);
extern int (*real_mlock)(const void *, size_t);
extern int (*real_mlock2)(const void *, size_t, unsigned int);
extern int (*real_munlock)(const void *, size_t);
extern void *(*real_shmat)(int, const void *, int);
extern int (*real_shmdt)(const void *);
void real_resolve(void);

/* options.c: what `ptshare run` asked for. */
extern size_t option_min_size;
extern bool option_commit;	/* memory is promised only if it is there */
extern size_t granule;
void options_read(void);
bool options_want_name(const char *name);

/* log.c: what is told to `ptshare run --report`. */
void log_open(const char *path);
void log_start(void);
void log_end(void);
void log_shared(const struct region *region);
void log_refused(const char *name, size_t length, int error);
void log_converted(const struct region *region, const char *call);

#endif

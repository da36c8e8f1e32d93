/* SPDX-License-Identifier: MIT */
#ifndef PTSHARE_SHARE_H
#define PTSHARE_SHARE_H

#include "preload.h"

#define round_up(value, unit) (((value) + (unit) - 1) / (unit) * (unit))

/* attributes.c: what has been said of parts of a region. Under the lock. */

/* Parts that have differed in any program; further ones are as if nothing had been said. */
#define MAX_ATTRIBUTES 32

struct attribute {
	uintptr_t start, end;
	unsigned int advice;
	bool locked;
};

struct attributes {
	size_t count;
	struct attribute of[MAX_ATTRIBUTES];
};

void attributes_save(const struct region *region, struct attributes *saved);
void attributes_restore(const struct region *region, const struct attributes *saved);

/* share.c: making mappings that share, and turning them back. Under the lock. */

/*
 * mmap() with MAP_SHARED_PT, MAP_FAILED: the caller is to do as it was asked.
 * Without the lock: it takes it.
 */
void *share_map(void *addr, size_t length, int prot, int flags, int fd, off_t offset);

/* The same for a segment that shmat() has attached at @anchor. */
void *share_segment(uintptr_t anchor, size_t length, int prot);

/*
 * Have the process use ordinary page tables for a region, in place. -1: there
 * is no way to, and nothing has changed.
 */
int share_convert(struct region *region, const char *call);

/*
 * The kernel takes away whole granules only. So before [start, end) is taken
 * away, convert the regions of which it has a part that is none. Where the
 * call may go as far as it likes (@further), that is not needed for one that
 * reaches the end of what the program knows of a region.
 *
 * Returns the end of the call.
 */
uintptr_t share_prepare(uintptr_t start, uintptr_t end, bool further, const char *call);

/* [start, end) has been taken away: no region has it any more, but @except. */
void share_forget(uintptr_t start, uintptr_t end, const struct region *except);

/* In a child of fork(), which has not got what it was not to have (MADV_DONTFORK). */
void share_after_fork(void);

/* Let go of what belongs to a region besides its memory. */
void share_release(struct region *region);

#endif

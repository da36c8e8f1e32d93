// SPDX-License-Identifier: MIT
/* The region: a file, mapped by one of the methods. */
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAP_SHARED_PT 0x200000

/* Where nothing else is: for mappings that must not, or must, be congruent to the file modulo 1 GiB. */
#define FREE_PLACE (64UL << 30)

/* The file, empty and of its size: in a directory, or with no name in memory, or of huge pages. */
int region_open(void)
{
	int fd;

	if (options.method == HUGETLB)
		fd = memfd_create("bench", MFD_HUGETLB | MFD_HUGE_2MB);
	else if (options.dir)
		fd = open(options.dir, O_TMPFILE | O_RDWR, 0600);
	else
		fd = memfd_create("bench", 0);
	if (fd < 0 || ftruncate(fd, options.size))
		die("the file");
	return fd;
}

void *region_map(int fd)
{
	int flags = MAP_SHARED_VALIDATE;
	void *at = NULL;

	if (options.method == SHARED_2M || options.method == SHARED_1G)
		flags |= MAP_SHARED_PT;
	/* Off by a granule no GiB can be linked as a whole. */
	if (options.method == SHARED_2M)
		at = (void *)(FREE_PLACE + GRANULE);
	/* The kernel shares tables of whole GiBs at such addresses, and does not choose one by itself. */
	if (options.method == HUGETLB)
		at = (void *)FREE_PLACE;
	if (at)
		flags = (flags & ~MAP_SHARED_VALIDATE) | MAP_SHARED | MAP_FIXED;
	at = mmap(at, options.size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

/* One load for each page: nothing else is in the loop, so that it is as cheap as touching can be. */
unsigned long read_pages(const void *at, size_t size)
{
	const volatile unsigned char *byte = at, *end = byte + size;
	size_t stride = options.stride;
	unsigned long sum = 0;

	for (; byte < end; byte += stride)
		sum += *byte;
	return sum;
}

void write_pages(void *at, size_t size)
{
	volatile unsigned char *byte = at, *end = byte + size;
	size_t stride = options.stride;

	for (; byte < end; byte += stride)
		*byte = 1;
}

unsigned long region_read(const void *at)
{
	return read_pages(at, options.touched);
}

void region_write(void *at)
{
	write_pages(at, options.touched);
}

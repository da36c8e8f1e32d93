// SPDX-License-Identifier: GPL-2.0-only
/*
 * MAP_SHARED_PT: page tables shared between processes.
 *
 * Equal data proves nothing here, any shared mapping has it. That tables are
 * shared shows in what a process need not do: one fault makes whole granules
 * present in its pagemap, and a page that another one brings in later is
 * present without a fault.
 *
 * Each test runs with files in memory and on disk and with anonymous memory,
 * in this process and two others. Those map the file on their own, at other
 * addresses; anonymous memory they inherit.
 *
 * Nothing else may use MAP_SHARED_PT meanwhile: the numbers in
 * /sys/kernel/mm/ptshare are for the whole system.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include "../kselftest_harness.h"
#include "vm_util.h"

#ifndef MAP_SHARED_PT
#define MAP_SHARED_PT	0x200000
#endif

#define SYSFS		"/sys/kernel/mm/ptshare/"
#define SHARED_PT	(MAP_SHARED | MAP_SHARED_PT)
#define RW		(PROT_READ | PROT_WRITE)
#define GRANULES	4

/* The processes: this one, two others, and a child where a test forks one. */
#define ME		0
#define PEER		1
#define OTHER		2
#define PROCS		3
#define CHILD		3

#define NOBODY		65534

static size_t granule;
static size_t pagesize;

/* This process, or another one that does what it is asked to. */
struct proc {
	pid_t pid;		/* 0 for this process */
	int sock;
	int fd;			/* the file, opened by this process itself */
	char *map;		/* its guest */
};

/* What a process can be asked. A negative result is -errno, or -signal. */
typedef long (*request_fn)(char *addr, size_t len, long arg);

struct request {
	request_fn fn;
	char *addr;
	size_t len;
	long arg;
};

/* Faults of this process so far. */
static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static unsigned char load(char *addr)
{
	return __atomic_load_n(addr, __ATOMIC_RELAXED);
}

static void store(char *addr, unsigned char value)
{
	__atomic_store_n(addr, value, __ATOMIC_RELAXED);
}

/* Store @value to each page, or read if it is negative. Returns the faults. */
static long do_touch(char *addr, size_t len, long value)
{
	char here[1] = {}, *from;
	long before = 0;
	size_t at, size;
	int i;

	/* In the first round the code and the stack of this fault, if at all. */
	for (i = 0; i < 2; i++) {
		from = i ? addr : here;
		size = i ? len : sizeof(here);
		before = faults();
		for (at = 0; at < size; at += pagesize) {
			if (value < 0)
				load(from + at);
			else
				store(from + at, value);
		}
		before = faults() - before;
	}
	return before;
}

static sigjmp_buf access_env;

static void access_failed(int sig)
{
	siglongjmp(access_env, sig);
}

/* Store @value, or read if it is negative. Returns the byte. */
static long do_access(char *addr, size_t len, long value)
{
	struct sigaction action = { .sa_handler = access_failed }, segv, bus;
	long ret;
	int sig;

	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	sig = sigsetjmp(access_env, 1);
	if (sig) {
		ret = -sig;
	} else {
		if (value >= 0)
			store(addr, value);
		ret = load(addr);
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return ret;
}

/* How many pages are in the page tables? */
static long do_present(char *addr, size_t len, long unused)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	long nr = 0;
	size_t at;

	for (at = 0; at < len; at += pagesize)
		nr += PAGEMAP_PRESENT(pagemap_get_entry(pagemap, addr + at));
	close(pagemap);
	return nr;
}

static long do_mprotect(char *addr, size_t len, long prot)
{
	return mprotect(addr, len, prot) ? -errno : 0;
}

static long do_madvise(char *addr, size_t len, long advice)
{
	return madvise(addr, len, advice) ? -errno : 0;
}

static long do_munmap(char *addr, size_t len, long unused)
{
	return munmap(addr, len) ? -errno : 0;
}

static long do_mlock(char *addr, size_t len, long unused)
{
	return mlock(addr, len) ? -errno : 0;
}

static long do_munlock(char *addr, size_t len, long unused)
{
	return munlock(addr, len) ? -errno : 0;
}

/* Map @len bytes of a file, with a hole before that moves what comes later. */
static long do_map(char *hole, size_t len, long fd)
{
	char *addr;

	mmap(NULL, (size_t)hole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	addr = mmap(NULL, len, RW, SHARED_PT, fd, 0);
	return addr == MAP_FAILED ? -errno : (long)addr;
}

/* The same file, through an open file of the caller's own. */
static long do_reopen(char *unused, size_t flags, long fd)
{
	char path[64];
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%ld", fd);
	ret = open(path, flags);
	return ret < 0 ? -errno : ret;
}

/* A number in /proc/self/status, kB. */
static long do_status(char *field, size_t unused1, long unused2)
{
	char line[256];
	FILE *file = fopen("/proc/self/status", "r");
	long kb = -ENOENT;

	while (kb < 0 && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, field, strlen(field)))
			kb = strtol(line + strlen(field), NULL, 10);
	}
	fclose(file);
	return kb;
}

/*
 * The sum of a number, kB, over the entries of /proc/self/smaps that begin in a
 * range. @field is a string.
 */
static long do_smaps(char *addr, size_t len, long field)
{
	unsigned long start, end;
	char line[512], word[64];
	long sum = 0, kb;
	bool in = false;
	FILE *file = fopen("/proc/self/smaps", "r");

	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in = (char *)start >= addr && (char *)start < addr + len;
		else if (in && sscanf(line, "%63s %ld kB", word, &kb) == 2 &&
			 !strcmp(word, (char *)field))
			sum += kb;
	}
	fclose(file);
	return sum;
}

/* As an ordinary user that may lock one granule. */
static long do_mlock_limited(char *addr, size_t len, long unused)
{
	struct rlimit limit = { granule, granule };

	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		return -errno;
	if (!geteuid() && setresuid(NOBODY, NOBODY, NOBODY))
		return -errno;
	return do_mlock(addr, len, 0);
}

/* What the kernel holds for sharing. */
struct counts {
	long domains;
	long guests;
	long tables;
};

/* The memory of a test, -1 if it is anonymous, and who has it mapped. */
struct arena {
	size_t len;
	int fd;
	struct counts before;
	struct proc proc[PROCS + 1];
};

static void serve(int sock)
{
	struct request req;
	long ret;

	while (recv(sock, &req, sizeof(req), 0) == sizeof(req)) {
		ret = req.fn(req.addr, req.len, req.arg);
		send(sock, &ret, sizeof(ret), MSG_NOSIGNAL);
	}
	_exit(0);
}

static void start(struct __test_metadata *_metadata, struct proc *proc)
{
	int socks[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks));
	proc->pid = fork();
	ASSERT_GE(proc->pid, 0);
	if (!proc->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(socks[0]);
		serve(socks[1]);
	}
	close(socks[1]);
	proc->sock = socks[0];
}

static void stop(struct proc *proc)
{
	if (proc->pid <= 0)
		return;
	kill(proc->pid, SIGKILL);
	waitpid(proc->pid, NULL, 0);
	close(proc->sock);
	proc->pid = -1;
}

/* Have a process call a function. */
static long call(struct arena *a, int nr, request_fn fn, void *addr, size_t len,
		 long arg)
{
	struct request req = { fn, addr, len, arg };
	struct proc *proc = &a->proc[nr];
	long ret;

	if (!proc->pid)
		return fn(addr, len, arg);
	send(proc->sock, &req, sizeof(req), MSG_NOSIGNAL);
	if (recv(proc->sock, &ret, sizeof(ret), 0) != sizeof(ret))
		return -ESRCH;
	return ret;
}

/* The same for a range of the process's guest. */
static long ask(struct arena *a, int nr, request_fn fn, size_t offset,
		size_t len, long arg)
{
	return call(a, nr, fn, a->proc[nr].map + offset, len, arg);
}

/*
 * Faults that it takes a process to link a range where the tables exist: each
 * links what lies in the same 16 granules of addresses.
 */
static long link_faults(const char *addr, size_t len)
{
	unsigned long start = (unsigned long)addr, around = 16 * granule;

	return (start + len - 1) / around - start / around + 1;
}

static long number_in(const char *path)
{
	FILE *file = fopen(path, "r");
	long number = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &number) != 1)
		number = -1;
	fclose(file);
	return number;
}

static struct counts counts(void)
{
	return (struct counts) {
		.domains = number_in(SYSFS "domains"),
		.guests = number_in(SYSFS "guests"),
		.tables = number_in(SYSFS "tables"),
	};
}

static char *map(size_t len, int prot, int flags, int fd, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

/* An address with unmapped room for @len bytes, congruent to 0 modulo @align. */
static char *free_area(size_t len, size_t align)
{
	char *addr = map(len + 2 * align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	munmap(addr, len + 2 * align);
	return (char *)(((unsigned long)addr + 2 * align - 1) & ~(align - 1));
}

static bool has_vm_flag(char *addr, const char *flag)
{
	char line[512], word[8];
	unsigned long start, end;
	bool in = false, found = false;
	FILE *file = fopen("/proc/self/smaps", "r");

	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			in = (char *)start <= addr && addr < (char *)end;
		} else if (in && !strncmp(line, "VmFlags:", 8)) {
			snprintf(word, sizeof(word), " %s ", flag);
			found = strstr(line, word);
		}
	}
	fclose(file);
	return found;
}

/* How many lines has /proc/self/maps for a range? With the rights of the first. */
static int maps_lines(char *addr, size_t len, char *rights)
{
	unsigned long start, end;
	char line[512], found[5];
	int nr = 0;
	FILE *file = fopen("/proc/self/maps", "r");

	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx %4s", &start, &end, found) == 3 &&
		    (char *)start < addr + len && (char *)end > addr && !nr++)
			memcpy(rights, found, sizeof(found));
	}
	fclose(file);
	return nr;
}

/* Kinds of memory. A negative result is -errno. */
static int open_memfd(void)
{
	int fd = memfd_create("ptshare", MFD_ALLOW_SEALING);

	return fd < 0 ? -errno : fd;
}

static int open_unlinked(const char *directory, bool want_memory)
{
	struct statfs fs;
	char path[128];
	bool memory;
	int fd;

	snprintf(path, sizeof(path), "%s/ptshare-XXXXXX", directory);
	fd = mkstemp(path);
	if (fd < 0)
		return -errno;
	unlink(path);
	memory = !fstatfs(fd, &fs) && (fs.f_type == TMPFS_MAGIC ||
				       fs.f_type == RAMFS_MAGIC);
	if (memory != want_memory) {
		close(fd);
		return -ENOTSUP;
	}
	return fd;
}

static int open_tmpfs(void)
{
	return open_unlinked("/dev/shm", true);
}

static int open_disk(void)
{
	return open_unlinked(".", false);
}

struct kind {
	int (*open)(void);
	const char *skip;
};

static const struct kind memfd = {
	.open = open_memfd,
	.skip = "no memfd_create()",
};

static const struct kind tmpfs = {
	.open = open_tmpfs,
	.skip = "/dev/shm is no tmpfs that this user may write to",
};

static const struct kind disk = {
	.open = open_disk,
	.skip = "the working directory is in memory or not for this user to write to",
};

/* Have another process map the file, or take over what it was forked with. */
static void attach(struct __test_metadata *_metadata, struct arena *a, int nr)
{
	struct proc *proc = &a->proc[nr];
	size_t hole = nr * 3 * granule;

	if (a->fd < 0) {
		start(_metadata, proc);
		proc->map = a->proc[ME].map;
		return;
	}
	if (proc->pid <= 0)
		start(_metadata, proc);
	proc->fd = call(a, nr, do_reopen, NULL, O_RDWR, a->fd);
	ASSERT_GE(proc->fd, 0);
	proc->map = (char *)call(a, nr, do_map, (void *)hole, a->len, proc->fd);
	ASSERT_GT((long)proc->map, 0);
}

static void setup(struct __test_metadata *_metadata, struct arena *a)
{
	int flags = SHARED_PT | (a->fd < 0 ? MAP_ANONYMOUS : 0);

	a->len = GRANULES * granule;
	a->before = counts();
	if (a->fd >= 0)
		ASSERT_EQ(0, ftruncate(a->fd, a->len));

	/* The others start without the guest of this one, if they can. */
	if (a->fd >= 0) {
		start(_metadata, &a->proc[PEER]);
		start(_metadata, &a->proc[OTHER]);
	}
	a->proc[ME].fd = a->fd;
	a->proc[ME].map = map(a->len, RW, flags, a->fd, 0);
	ASSERT_NE(MAP_FAILED, a->proc[ME].map);
	attach(_metadata, a, PEER);
	attach(_metadata, a, OTHER);
}

static void teardown(struct __test_metadata *_metadata, struct arena *a)
{
	struct counts now;
	int tries = 100;
	int i;

	for (i = 0; i <= PROCS; i++)
		stop(&a->proc[i]);
	munmap(a->proc[ME].map, a->len);
	if (a->fd >= 0)
		close(a->fd);
	/* Who reads a process's files in /proc keeps its mappings for that long. */
	do {
		now = counts();
		if (!memcmp(&now, &a->before, sizeof(now)))
			break;
		usleep(10000);
	} while (--tries);
	EXPECT_EQ(a->before.domains, now.domains);
	EXPECT_EQ(a->before.guests, now.guests);
	EXPECT_EQ(a->before.tables, now.tables);
}

/* All kinds of memory; anonymous memory has no kind. */
FIXTURE(guests)
{
	struct arena a;
};

FIXTURE_VARIANT(guests)
{
	const struct kind *kind;
};

FIXTURE_VARIANT_ADD(guests, memfd)
{
	.kind = &memfd,
};

FIXTURE_VARIANT_ADD(guests, tmpfs)
{
	.kind = &tmpfs,
};

FIXTURE_VARIANT_ADD(guests, disk)
{
	.kind = &disk,
};

FIXTURE_VARIANT_ADD(guests, anon)
{
};

FIXTURE_SETUP(guests)
{
	self->a.fd = variant->kind ? variant->kind->open() : -1;
	if (variant->kind && self->a.fd < 0)
		SKIP(return, "%s", variant->kind->skip);
	setup(_metadata, &self->a);
}

FIXTURE_TEARDOWN(guests)
{
	teardown(_metadata, &self->a);
}

/* What can be opened, and mapped by whoever opens it. */
FIXTURE(files)
{
	struct arena a;
};

FIXTURE_VARIANT(files)
{
	const struct kind *kind;
};

FIXTURE_VARIANT_ADD(files, memfd)
{
	.kind = &memfd,
};

FIXTURE_VARIANT_ADD(files, tmpfs)
{
	.kind = &tmpfs,
};

FIXTURE_VARIANT_ADD(files, disk)
{
	.kind = &disk,
};

FIXTURE_SETUP(files)
{
	self->a.fd = variant->kind->open();
	if (self->a.fd < 0)
		SKIP(return, "%s", variant->kind->skip);
	setup(_metadata, &self->a);
}

FIXTURE_TEARDOWN(files)
{
	teardown(_metadata, &self->a);
}

/* One that no process but this maps. */
FIXTURE(asking)
{
	int fd;
	struct counts before;
};

FIXTURE_SETUP(asking)
{
	self->before = counts();
	self->fd = open_memfd();
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, ftruncate(self->fd, GRANULES * granule));
}

FIXTURE_TEARDOWN(asking)
{
	struct counts now = counts();

	close(self->fd);
	EXPECT_EQ(self->before.domains, now.domains);
	EXPECT_EQ(self->before.guests, now.guests);
	EXPECT_EQ(self->before.tables, now.tables);
}

/* mmap() fails with this error. */
#define EXPECT_REFUSED(err, ...) \
	do { \
		errno = 0; \
		EXPECT_EQ(MAP_FAILED, mmap(__VA_ARGS__)); \
		EXPECT_EQ(err, errno); \
	} while (0)

TEST_F(asking, granted)
{
	int flags[] = { MAP_SHARED, MAP_SHARED_VALIDATE };
	char *addr;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		addr = map(granule, RW, flags[i] | MAP_SHARED_PT, self->fd, 0);
		ASSERT_NE(MAP_FAILED, addr);
		EXPECT_EQ(0, (unsigned long)addr % granule);
		EXPECT_TRUE(has_vm_flag(addr, "pt"));
		EXPECT_EQ(self->before.guests + 1, counts().guests);
		EXPECT_EQ(self->before.domains + 1, counts().domains);
		EXPECT_EQ(0, munmap(addr, granule));
	}
}

TEST_F(asking, einval)
{
	char *area = free_area(2 * granule, granule);
	int fd = self->fd;

	EXPECT_REFUSED(EINVAL, NULL, granule, RW, MAP_PRIVATE | MAP_SHARED_PT, fd, 0);
	EXPECT_REFUSED(EINVAL, NULL, granule, RW,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_SHARED_PT, -1, 0);
	EXPECT_REFUSED(EINVAL, NULL, granule, RW, MAP_SHARED_PT, fd, 0);
	EXPECT_REFUSED(EINVAL, NULL, 0, RW, SHARED_PT, fd, 0);
	EXPECT_REFUSED(EINVAL, NULL, pagesize, RW, SHARED_PT, fd, 0);
	EXPECT_REFUSED(EINVAL, NULL, granule + pagesize, RW, SHARED_PT, fd, 0);
	EXPECT_REFUSED(EINVAL, NULL, granule - 1, RW, SHARED_PT, fd, 0);
	EXPECT_REFUSED(EINVAL, NULL, granule, RW, SHARED_PT, fd, pagesize);
	EXPECT_REFUSED(EINVAL, NULL, granule, RW, SHARED_PT, fd, granule / 2);
	EXPECT_REFUSED(EINVAL, area + pagesize, granule, RW,
		       SHARED_PT | MAP_FIXED, fd, 0);
	EXPECT_REFUSED(EINVAL, area + granule / 2, granule, RW,
		       SHARED_PT | MAP_FIXED_NOREPLACE, fd, 0);
	EXPECT_REFUSED(EOVERFLOW, NULL, granule, RW, SHARED_PT, fd,
		       (off_t)1 << (8 * sizeof(off_t) - 4));
}

TEST_F(asking, eopnotsupp)
{
	int zero = open("/dev/zero", O_RDWR);

	EXPECT_REFUSED(EOPNOTSUPP, NULL, granule, RW, SHARED_PT, zero, 0);
	EXPECT_REFUSED(EOPNOTSUPP, NULL, granule, RW,
		       SHARED_PT | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	close(zero);
}

TEST_F(asking, eacces)
{
	int fd = do_reopen(NULL, O_RDONLY, self->fd);

	ASSERT_GE(fd, 0);
	EXPECT_REFUSED(EACCES, NULL, granule, RW, SHARED_PT, fd, 0);
	close(fd);
}

TEST_F(asking, address)
{
	char *area = free_area(4 * granule, granule), *addr;

	/* Taken where it fits, no more than a hint where not. */
	addr = mmap(area, granule, RW, SHARED_PT, self->fd, 0);
	EXPECT_EQ(area, addr);
	EXPECT_EQ(0, munmap(addr, granule));
	addr = mmap(area + pagesize, granule, RW, SHARED_PT, self->fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	EXPECT_EQ(0, (unsigned long)addr % granule);
	EXPECT_EQ(0, munmap(addr, granule));
	addr = mmap(area, granule, RW, SHARED_PT | MAP_FIXED_NOREPLACE, self->fd, 0);
	EXPECT_EQ(area, addr);
	EXPECT_REFUSED(EEXIST, area, granule, RW, SHARED_PT | MAP_FIXED_NOREPLACE,
		       self->fd, 0);
	EXPECT_EQ(0, munmap(area, granule));
}

/* A window as large as what a table of tables maps is linked as a whole. */
TEST_F(asking, large)
{
	size_t large = granule * (pagesize / sizeof(long)), offset = granule;
	char *first, *second;

	ASSERT_EQ(0, ftruncate(self->fd, 2 * large));
	first = map(large + granule, RW, SHARED_PT, self->fd, 0);
	ASSERT_NE(MAP_FAILED, first);
	second = map(large, RW, SHARED_PT, self->fd, offset);
	ASSERT_NE(MAP_FAILED, second);
	EXPECT_EQ(0, (unsigned long)first % large);
	EXPECT_EQ(offset, (unsigned long)second % large);

	EXPECT_EQ(0, do_status("VmSharedPT:", 0, 0));
	do_touch(first, 3 * granule, 1);
	EXPECT_EQ((long)(large >> 10), do_status("VmSharedPT:", 0, 0));
	/* Not congruent to a whole one, so linked granule by granule. */
	EXPECT_EQ(1, do_touch(second, 2 * granule, -1));
	EXPECT_EQ((long)((large + 2 * granule) >> 10), do_status("VmSharedPT:", 0, 0));
	EXPECT_EQ(0, munmap(second, large));
	second = map(large, RW, SHARED_PT, self->fd, 0);
	ASSERT_NE(MAP_FAILED, second);
	EXPECT_EQ(0, do_touch(second, 3 * granule, -1));

	/* What is left of a link to a table of tables is linked again. */
	EXPECT_EQ(0, munmap(second + granule, granule));
	EXPECT_EQ(1, do_touch(second, granule, -1));
	EXPECT_EQ(-SIGSEGV, do_access(second + granule, 1, -1));
	EXPECT_EQ(0, do_touch(first, 3 * granule, -1));
	EXPECT_EQ(0, munmap(second, large));
	EXPECT_EQ(0, munmap(first, large + granule));
}

TEST_F(asking, switch)
{
	char *standing = map(granule, RW, SHARED_PT, self->fd, 0);
	int fd = open(SYSFS "enabled", O_RDWR);

	ASSERT_NE(MAP_FAILED, standing);
	if (fd < 0) {
		munmap(standing, granule);
		SKIP(return, "only root may write to " SYSFS "enabled");
	}
	EXPECT_EQ(1, write(fd, "0", 1));
	EXPECT_REFUSED(EOPNOTSUPP, NULL, granule, RW, SHARED_PT, self->fd, 0);
	EXPECT_REFUSED(EOPNOTSUPP, NULL, granule, RW,
		       MAP_SHARED_VALIDATE | MAP_SHARED_PT, self->fd, 0);
	EXPECT_EQ(7, do_access(standing, 1, 7));
	EXPECT_EQ(-1, write(fd, "perhaps", 7));
	EXPECT_EQ(1, write(fd, "1", 1));
	EXPECT_EQ(1, number_in(SYSFS "enabled"));
	close(fd);
	EXPECT_EQ(0, munmap(standing, granule));
}

TEST_F(asking, granule)
{
	EXPECT_EQ((long)granule, number_in(SYSFS "granule"));
	EXPECT_EQ(0, granule % pagesize);
	if (read_pmd_pagesize())
		EXPECT_EQ(read_pmd_pagesize(), granule);
}

/* Sharing */

TEST_F(guests, one_fault_for_what_is_around)
{
	struct arena *a = &self->a;
	long pages = a->len / pagesize;
	int i;

	do_touch(a->proc[ME].map, a->len, 1);
	for (i = PEER; i < PROCS; i++) {
		EXPECT_EQ(0, ask(a, i, do_present, 0, a->len, 0));
		EXPECT_EQ(link_faults(a->proc[i].map, a->len),
			  ask(a, i, do_touch, 0, a->len, -1));
		EXPECT_EQ(pages, ask(a, i, do_present, 0, a->len, 0));
		EXPECT_EQ(1, ask(a, i, do_access, a->len - pagesize, 1, -1));
		EXPECT_EQ(0, ask(a, i, do_touch, 0, a->len, 1));
	}
	EXPECT_EQ(0, do_touch(a->proc[ME].map, a->len, -1));
}

/* What the counts above are for ordinary mappings. */
TEST_F(files, ordinary_mappings_share_no_tables)
{
	struct arena *a = &self->a;
	char *addr = map(a->len, RW, MAP_SHARED, a->fd, 0);

	ASSERT_NE(MAP_FAILED, addr);
	/* A huge page has no table. */
	madvise(addr, a->len, MADV_NOHUGEPAGE);
	do_touch(a->proc[ME].map, a->len, 1);
	EXPECT_FALSE(has_vm_flag(addr, "pt"));
	EXPECT_LT(GRANULES, do_touch(addr, a->len, 2));
	EXPECT_EQ(0, munmap(addr, a->len));
}

TEST_F(guests, a_page_is_there_for_all_at_once)
{
	struct arena *a = &self->a;
	size_t late = granule / 2 + 3 * pagesize;
	int i;

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_access, 0, 1, 1);
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(0, ask(a, i, do_present, late, pagesize, 0));
	EXPECT_EQ(5, ask(a, PEER, do_access, late, 1, 5));
	for (i = 0; i < PROCS; i++) {
		EXPECT_EQ(1, ask(a, i, do_present, late, pagesize, 0));
		EXPECT_EQ(0, ask(a, i, do_touch, late, pagesize, -1));
		EXPECT_EQ(5, ask(a, i, do_access, late, 1, -1));
	}
}

TEST_F(guests, tables_exist_once)
{
	struct arena *a = &self->a;
	struct counts now = counts();
	long own, held;

	EXPECT_EQ(a->before.domains + 1, now.domains);
	EXPECT_EQ(a->before.guests + 3, now.guests);
	own = do_status("VmPTE:", 0, 0);
	do_touch(a->proc[ME].map, a->len, 1);
	held = counts().tables - a->before.tables;
	/* One for each granule, and upper levels. */
	EXPECT_LE(GRANULES, held);
	EXPECT_GE(GRANULES + 3, held);
	ask(a, PEER, do_touch, 0, a->len, 2);
	ask(a, OTHER, do_touch, 0, a->len, -1);
	EXPECT_EQ(held, counts().tables - a->before.tables);

	/* Of its own the process has upper levels at most. */
	EXPECT_GT(own + GRANULES * (long)pagesize / 1024, do_status("VmPTE:", 0, 0));
	EXPECT_EQ((long)a->len >> 10, do_status("VmSharedPT:", 0, 0));
	EXPECT_EQ((long)a->len >> 10, call(a, OTHER, do_status, "VmSharedPT:", 0, 0));
}

TEST_F(guests, populate)
{
	struct arena *a = &self->a;

	EXPECT_EQ(0, ask(a, PEER, do_madvise, 0, granule, MADV_POPULATE_READ));
	EXPECT_EQ(0, ask(a, PEER, do_madvise, granule, granule, MADV_POPULATE_WRITE));
	EXPECT_EQ(1, do_touch(a->proc[ME].map, granule, -1));
	/* Linked already, unless another 16 granules begin here. */
	EXPECT_GE(1, do_touch(a->proc[ME].map + granule, granule, 1));
	EXPECT_EQ(0, do_present(a->proc[ME].map + 2 * granule, granule, 0));
}

TEST_F(files, map_populate)
{
	struct arena *a = &self->a;
	char *addr = map(a->len, RW, SHARED_PT | MAP_POPULATE, a->fd, 0);

	ASSERT_NE(MAP_FAILED, addr);
	EXPECT_EQ((long)(a->len / pagesize), do_present(addr, a->len, 0));
	EXPECT_EQ(link_faults(a->proc[PEER].map, a->len),
		  ask(a, PEER, do_touch, 0, a->len, -1));
	EXPECT_EQ(0, munmap(addr, a->len));
}

TEST_F(files, overlapping_windows)
{
	struct arena *a = &self->a;
	char *addr = map(3 * granule, RW, SHARED_PT, a->fd, granule);
	long held;

	ASSERT_NE(MAP_FAILED, addr);
	EXPECT_EQ(a->before.domains + 1, counts().domains);
	ask(a, PEER, do_touch, 0, a->len, 3);
	held = counts().tables;
	EXPECT_EQ(link_faults(addr, 3 * granule), do_touch(addr, 3 * granule, -1));
	EXPECT_EQ(held, counts().tables);
	EXPECT_EQ(9, do_access(addr + 5 * pagesize, 1, 9));
	EXPECT_EQ(9, ask(a, PEER, do_access, granule + 5 * pagesize, 1, -1));
	EXPECT_EQ(0, munmap(addr, 3 * granule));
}

TEST_F(files, access_classes)
{
	struct arena *a = &self->a;
	int readonly = do_reopen(NULL, O_RDONLY, a->fd);
	char *reader, *may_write, *executable;

	ASSERT_GE(readonly, 0);
	do_touch(a->proc[ME].map, a->len, 4);

	/* May read; may read and could write; may execute. */
	reader = map(a->len, PROT_READ, SHARED_PT, readonly, 0);
	ASSERT_NE(MAP_FAILED, reader);
	EXPECT_EQ(a->before.domains + 2, counts().domains);
	may_write = map(a->len, PROT_READ, SHARED_PT, a->fd, 0);
	ASSERT_NE(MAP_FAILED, may_write);
	EXPECT_EQ(a->before.domains + 3, counts().domains);
	executable = map(a->len, PROT_READ | PROT_EXEC, SHARED_PT, readonly, 0);
	if (executable != MAP_FAILED) {
		EXPECT_EQ(a->before.domains + 4, counts().domains);
		EXPECT_EQ(0, munmap(executable, a->len));
	}

	/* The data is the same, the tables are not. */
	EXPECT_EQ(4, do_access(reader, 1, -1));
	EXPECT_EQ(0, do_present(reader + granule - pagesize, pagesize, 0));
	EXPECT_EQ(4, do_access(may_write, 1, -1));
	EXPECT_EQ(0, do_present(may_write + granule - pagesize, pagesize, 0));
	EXPECT_EQ(0, munmap(may_write, a->len));
	EXPECT_EQ(0, munmap(reader, a->len));
	close(readonly);
}

/* Protection */

TEST_F(guests, mprotect_is_for_all)
{
	struct arena *a = &self->a;
	size_t page = granule + 7 * pagesize;
	char rights[5];
	int i;

	/* Each CPU has the translations. */
	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 1);

	EXPECT_EQ(0, ask(a, PEER, do_mprotect, page, pagesize, PROT_READ));
	for (i = 0; i < PROCS; i++) {
		EXPECT_EQ(-SIGSEGV, ask(a, i, do_access, page, 1, 2));
		EXPECT_EQ(1, ask(a, i, do_access, page, 1, -1));
		EXPECT_EQ(2, ask(a, i, do_access, page - pagesize, 1, 2));
		EXPECT_EQ(2, ask(a, i, do_access, page + pagesize, 1, 2));
	}
	EXPECT_EQ(3, maps_lines(a->proc[ME].map, a->len, rights));
	EXPECT_EQ(1, maps_lines(a->proc[ME].map + page, pagesize, rights));
	EXPECT_STREQ("r--s", rights);

	EXPECT_EQ(0, ask(a, OTHER, do_mprotect, 0, a->len, PROT_NONE));
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(-SIGSEGV, ask(a, i, do_access, page, 1, -1));
	EXPECT_EQ(1, maps_lines(a->proc[ME].map, a->len, rights));
	EXPECT_STREQ("---s", rights);

	EXPECT_EQ(0, ask(a, ME, do_mprotect, 0, a->len, RW));
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(3, ask(a, i, do_access, page, 1, 3));
	EXPECT_EQ(1, maps_lines(a->proc[ME].map, a->len, rights));
	EXPECT_STREQ("rw-s", rights);
}

TEST_F(guests, a_late_comer_finds_the_protection_in_force)
{
	struct arena *a = &self->a;

	stop(&a->proc[OTHER]);
	do_touch(a->proc[ME].map, a->len, 1);
	EXPECT_EQ(0, do_mprotect(a->proc[ME].map, granule, PROT_READ));
	/* Asks for reading and writing. */
	attach(_metadata, a, OTHER);
	EXPECT_EQ(1, ask(a, OTHER, do_access, 0, 1, -1));
	EXPECT_EQ(-SIGSEGV, ask(a, OTHER, do_access, 0, 1, 2));
	EXPECT_EQ(2, ask(a, OTHER, do_access, granule, 1, 2));
	EXPECT_EQ(0, ask(a, OTHER, do_mprotect, 0, granule, RW));
	EXPECT_EQ(2, do_access(a->proc[ME].map, 1, 2));
}

TEST_F(files, who_cannot_write_cannot_protect)
{
	struct arena *a = &self->a;
	int readonly = do_reopen(NULL, O_RDONLY, a->fd);
	int prots[] = { PROT_NONE, PROT_READ, RW };
	char *reader, rights[5];
	size_t i;

	ASSERT_GE(readonly, 0);
	do_touch(a->proc[ME].map, a->len, 1);
	reader = map(a->len, PROT_READ, SHARED_PT, readonly, 0);
	ASSERT_NE(MAP_FAILED, reader);
	do_touch(reader, a->len, -1);
	for (i = 0; i < ARRAY_SIZE(prots); i++)
		EXPECT_EQ(-EACCES, do_mprotect(reader, granule, prots[i]));
	EXPECT_EQ(1, maps_lines(reader, a->len, rights));
	EXPECT_STREQ("r--s", rights);
	EXPECT_EQ(-SIGSEGV, do_access(reader, 1, 2));

	/* Nor does it notice what the others do. */
	EXPECT_EQ(0, do_mprotect(a->proc[ME].map, a->len, PROT_NONE));
	EXPECT_EQ(1, do_access(reader, 1, -1));
	EXPECT_EQ(0, do_mprotect(a->proc[ME].map, a->len, RW));
	EXPECT_EQ(0, munmap(reader, a->len));
	close(readonly);
}

TEST_F(guests, no_protection_keys)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map;
	int key = pkey_alloc(0, 0);

	if (key < 0)
		SKIP(return, "no protection keys here");
	EXPECT_EQ(0, pkey_mprotect(addr, granule, PROT_READ, -1));
	EXPECT_EQ(0, pkey_mprotect(addr, granule, RW, 0));
	EXPECT_EQ(-1, pkey_mprotect(addr, granule, PROT_READ, key));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(1, ask(a, PEER, do_access, 0, 1, 1));
	pkey_free(key);
}

/* Changing a mapping */

TEST_F(guests, munmap_of_whole_granules)
{
	struct arena *a = &self->a;
	int i;

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 1);
	EXPECT_EQ(0, ask(a, PEER, do_munmap, granule, granule, 0));
	EXPECT_EQ(-SIGSEGV, ask(a, PEER, do_access, granule, 1, -1));
	EXPECT_EQ(0, ask(a, PEER, do_touch, 0, granule, -1));
	EXPECT_EQ(0, ask(a, PEER, do_touch, 2 * granule, 2 * granule, -1));
	EXPECT_EQ(3L * (granule >> 10), call(a, PEER, do_status, "VmSharedPT:", 0, 0));
	/* It is two guests now. */
	EXPECT_EQ(a->before.guests + 4, counts().guests);
	EXPECT_EQ(0, ask(a, PEER, do_munmap, 0, a->len, 0));
	EXPECT_EQ(a->before.guests + 2, counts().guests);
	for (i = 0; i < PROCS; i++) {
		if (i != PEER)
			EXPECT_EQ(0, ask(a, i, do_touch, 0, a->len, 2));
	}
}

TEST_F(guests, no_munmap_of_a_part_of_a_granule)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map, rights[5];
	size_t part[][2] = {
		{ 0, pagesize },
		{ pagesize, granule - pagesize },
		{ granule / 2, granule },
		{ 0, a->len - pagesize },
		{ granule + pagesize, pagesize },
	};
	size_t i;

	do_touch(addr, a->len, 1);
	for (i = 0; i < ARRAY_SIZE(part); i++) {
		EXPECT_EQ(-EINVAL, do_munmap(addr + part[i][0], part[i][1], 0));
		EXPECT_REFUSED(EINVAL, addr + part[i][0], part[i][1], PROT_READ,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		EXPECT_EQ(1, maps_lines(addr, a->len, rights));
		EXPECT_EQ(0, do_touch(addr, a->len, -1));
	}
}

TEST_F(guests, another_mapping_over_it)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map;

	do_touch(addr, a->len, 1);
	ask(a, PEER, do_touch, 0, a->len, 1);
	EXPECT_EQ(addr + granule, mmap(addr + granule, granule, RW,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(5, do_access(addr + granule, 1, 5));
	EXPECT_EQ(0, ask(a, PEER, do_touch, 0, a->len, -1));
	EXPECT_EQ(1, ask(a, PEER, do_access, granule, 1, -1));
}

TEST_F(files, attach_again)
{
	struct arena *a = &self->a;
	struct proc *p = &a->proc[PEER];

	do_touch(a->proc[ME].map, a->len, 1);
	ask(a, PEER, do_touch, 0, a->len, -1);
	EXPECT_EQ(0, ask(a, PEER, do_munmap, 0, a->len, 0));
	p->map = (char *)call(a, PEER, do_map, (void *)(5 * granule), a->len, p->fd);
	ASSERT_GT((long)p->map, 0);
	EXPECT_EQ(link_faults(a->proc[PEER].map, a->len),
		  ask(a, PEER, do_touch, 0, a->len, -1));
}

/* What was present of an ordinary mapping is present after. */
TEST_F(files, in_place_of_an_ordinary_mapping)
{
	struct arena *a = &self->a;
	char *area = free_area(a->len, granule);

	ASSERT_EQ(area, mmap(area, a->len, RW, MAP_SHARED | MAP_FIXED, a->fd, 0));
	do_touch(area, 2 * granule, 1);
	ASSERT_EQ(area, mmap(area, a->len, RW, SHARED_PT | MAP_FIXED, a->fd, 0));
	EXPECT_EQ(link_faults(area, 2 * granule), do_touch(area, 2 * granule, -1));
	EXPECT_EQ(0, do_present(area + 2 * granule, 2 * granule, 0));
	EXPECT_EQ(link_faults(a->proc[PEER].map, 2 * granule),
		  ask(a, PEER, do_touch, 0, 2 * granule, -1));
	EXPECT_EQ(0, munmap(area, a->len));
}

TEST_F(guests, mremap)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map, *to = free_area(a->len, granule);

	do_touch(addr, a->len, 1);
	ask(a, PEER, do_touch, 0, a->len, -1);

	/* Shrinks and grows. */
	EXPECT_EQ(addr, mremap(addr, a->len, a->len - granule, 0));
	EXPECT_EQ(-SIGSEGV, do_access(addr + a->len - granule, 1, -1));
	EXPECT_EQ(0, do_touch(addr, a->len - granule, -1));
	EXPECT_EQ(addr, mremap(addr, a->len - granule, a->len, 0));
	EXPECT_EQ(1, do_touch(addr + a->len - granule, granule, -1));

	/* Moves. */
	ASSERT_EQ(to, mremap(addr, a->len, a->len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	a->proc[ME].map = to;
	EXPECT_EQ(-SIGSEGV, do_access(addr, 1, -1));
	EXPECT_EQ(link_faults(to, a->len), do_touch(to, a->len, -1));
	EXPECT_TRUE(has_vm_flag(to, "pt"));
	EXPECT_EQ(6, do_access(to + granule, 1, 6));
	EXPECT_EQ(0, ask(a, PEER, do_touch, 0, a->len, -1));
	EXPECT_EQ(6, ask(a, PEER, do_access, granule, 1, -1));

	/* Not by parts of a granule. */
	EXPECT_EQ(MAP_FAILED, mremap(to, a->len, a->len - pagesize, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(to + pagesize, granule, 2 * granule, MREMAP_MAYMOVE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(to, granule, granule, MREMAP_MAYMOVE | MREMAP_FIXED,
				     addr + pagesize));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, do_touch(to, a->len, -1));
}

TEST_F(guests, fork)
{
	struct arena *a = &self->a;
	struct proc *child = &a->proc[CHILD];

	do_touch(a->proc[ME].map, a->len, 1);
	start(_metadata, child);
	child->map = a->proc[ME].map;
	EXPECT_EQ(a->before.domains + 1, counts().domains);
	EXPECT_EQ(a->before.guests + 4, counts().guests);
	/* No tables were copied, none are. */
	EXPECT_EQ(0, call(a, CHILD, do_status, "VmSharedPT:", 0, 0));
	EXPECT_EQ(0, ask(a, CHILD, do_present, 0, a->len, 0));
	EXPECT_EQ(link_faults(child->map, a->len),
		  ask(a, CHILD, do_touch, 0, a->len, 2));
	EXPECT_EQ(2, do_access(a->proc[ME].map, 1, -1));
	EXPECT_EQ(0, ask(a, CHILD, do_mprotect, 0, granule, PROT_READ));
	EXPECT_EQ(-SIGSEGV, do_access(a->proc[ME].map, 1, 3));
	stop(child);
	EXPECT_EQ(a->before.guests + 3, counts().guests);
	EXPECT_EQ(0, do_touch(a->proc[ME].map, a->len, -1));
}

TEST_F(guests, killed)
{
	struct arena *a = &self->a;
	struct counts held;
	int i;

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 1);
	held = counts();
	stop(&a->proc[PEER]);
	EXPECT_EQ(held.guests - 1, counts().guests);
	EXPECT_EQ(held.tables, counts().tables);
	EXPECT_EQ(0, do_touch(a->proc[ME].map, a->len, 2));
	EXPECT_EQ(0, ask(a, OTHER, do_touch, 0, a->len, 3));
	stop(&a->proc[OTHER]);
	EXPECT_EQ(0, do_munmap(a->proc[ME].map, a->len, 0));
	/* The last one took the tables with it. teardown() looks again. */
	EXPECT_EQ(a->before.domains, counts().domains);
	EXPECT_EQ(a->before.tables, counts().tables);
}

/* The file changes */

TEST_F(files, truncate_and_extend)
{
	struct arena *a = &self->a;
	int i;

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 1);
	ASSERT_EQ(0, ftruncate(a->fd, granule + pagesize));
	for (i = 0; i < PROCS; i++) {
		EXPECT_EQ(1, ask(a, i, do_access, granule, 1, -1));
		EXPECT_EQ(0, ask(a, i, do_present, granule + pagesize, granule, 0));
		EXPECT_EQ(-SIGBUS, ask(a, i, do_access, granule + pagesize, 1, -1));
		EXPECT_EQ(-SIGBUS, ask(a, i, do_access, a->len - pagesize, 1, 1));
	}
	ASSERT_EQ(0, ftruncate(a->fd, a->len));
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(0, ask(a, i, do_access, granule + pagesize, 1, -1));
}

TEST_F(guests, remove)
{
	struct arena *a = &self->a;
	int i;
	long ret;

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 1);
	ret = ask(a, PEER, do_madvise, pagesize, granule, MADV_REMOVE);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "this file system punches no holes");
	EXPECT_EQ(0, ret);
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(0, ask(a, i, do_present, pagesize, granule, 0));
	for (i = 0; i < PROCS; i++) {
		EXPECT_EQ(1, ask(a, i, do_access, 0, 1, -1));
		EXPECT_EQ(0, ask(a, i, do_access, pagesize, 1, -1));
		EXPECT_EQ(0, ask(a, i, do_access, granule, 1, -1));
		EXPECT_EQ(1, ask(a, i, do_access, granule + pagesize, 1, -1));
	}
}

/* Advice */

TEST_F(guests, dontneed)
{
	struct arena *a = &self->a;

	do_touch(a->proc[ME].map, a->len, 1);
	ask(a, PEER, do_touch, 0, a->len, -1);

	/* Whole granules of the range: none here. */
	EXPECT_EQ(0, ask(a, PEER, do_madvise, pagesize, granule, MADV_DONTNEED));
	EXPECT_EQ(0, ask(a, PEER, do_touch, 0, a->len, -1));

	EXPECT_EQ(0, ask(a, PEER, do_madvise, granule, 2 * granule, MADV_DONTNEED));
	EXPECT_EQ(0, ask(a, PEER, do_present, granule, 2 * granule, 0));
	EXPECT_EQ(2L * (granule >> 10), call(a, PEER, do_status, "VmSharedPT:", 0, 0));
	EXPECT_EQ(0, do_touch(a->proc[ME].map, a->len, -1));
	EXPECT_EQ(link_faults(a->proc[PEER].map + granule, 2 * granule),
		  ask(a, PEER, do_touch, 0, a->len, -1));
	EXPECT_EQ(1, ask(a, PEER, do_access, granule, 1, -1));
}

/* Does MADV_PAGEOUT take pages of such memory out of ordinary page tables? */
static bool can_page_out(const struct kind *kind, size_t len)
{
	int fd = kind ? kind->open() : -1;
	char *addr;
	bool ret;

	if (fd >= 0 && ftruncate(fd, len))
		return false;
	addr = map(len, RW, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED)
		return false;
	do_touch(addr, len, 1);
	if (fd >= 0)
		fsync(fd);
	madvise(addr, len, MADV_PAGEOUT);
	ret = do_present(addr, len, 0) < len / pagesize / 2;
	munmap(addr, len);
	if (fd >= 0)
		close(fd);
	return ret;
}

/* What is dirty would be written first, later, by another task. */
static void make_clean(struct arena *a)
{
	if (a->fd >= 0)
		fsync(a->fd);
}

TEST_F(guests, pageout)
{
	struct arena *a = &self->a;
	long pages = a->len / pagesize;
	int i;

	if (!can_page_out(variant->kind, granule))
		SKIP(return, "nowhere to page this out");

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 7);
	make_clean(a);
	EXPECT_EQ(0, ask(a, PEER, do_madvise, 0, a->len, MADV_PAGEOUT));
	/* A few may be held by others for the moment. */
	for (i = 0; i < PROCS; i++)
		EXPECT_GT(pages / 2, ask(a, i, do_present, 0, a->len, 0));
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(7, ask(a, i, do_access, granule + 9 * pagesize, 1, -1));
	ask(a, OTHER, do_touch, 0, a->len, -1);
	for (i = 0; i < PROCS; i++)
		EXPECT_EQ(0, ask(a, i, do_touch, 0, a->len, -1));
	EXPECT_EQ(0, ask(a, OTHER, do_madvise, 0, a->len, MADV_COLD));
	EXPECT_EQ(pages, do_present(a->proc[ME].map, a->len, 0));
}

TEST_F(guests, other_advice)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map;
	int fine[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_NORMAL,
		MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP, MADV_DONTFORK,
		MADV_DOFORK, MADV_COLD,
	};
	char rights[5];
	size_t i;

	do_touch(addr, a->len, 1);
	for (i = 0; i < ARRAY_SIZE(fine); i++)
		EXPECT_EQ(0, do_madvise(addr, a->len, fine[i]));
	if (read_pmd_pagesize()) {
		EXPECT_EQ(0, do_madvise(addr, a->len, MADV_NOHUGEPAGE));
		EXPECT_EQ(-EINVAL, do_madvise(addr, a->len, MADV_HUGEPAGE));
		EXPECT_EQ(-EINVAL, do_madvise(addr, a->len, MADV_COLLAPSE));
	}
	/* What splits a mapping does so between granules. */
	EXPECT_EQ(-EINVAL, do_madvise(addr, pagesize, MADV_DONTDUMP));
	EXPECT_EQ(1, maps_lines(addr, a->len, rights));
	EXPECT_EQ(0, do_madvise(addr, granule, MADV_DONTDUMP));
	EXPECT_TRUE(has_vm_flag(addr, "dd"));
	EXPECT_FALSE(has_vm_flag(addr + granule, "dd"));
	EXPECT_EQ(0, do_touch(addr, a->len, -1));
}

/*
 * A part of a guest is given to its neighbour where nothing tells them apart any
 * more. No split is made for it, and yet it is for whole granules only.
 */
TEST_F(guests, no_part_of_a_granule_to_a_neighbour)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map, *border = addr + granule;
	const long rest = (a->len - granule) >> 10;

	do_touch(addr, a->len, 1);
	EXPECT_EQ(0, do_madvise(addr, granule, MADV_DONTFORK));
	EXPECT_EQ(-EINVAL, do_madvise(border - pagesize, pagesize, MADV_DOFORK));
	EXPECT_EQ(-EINVAL, do_madvise(border, pagesize, MADV_DONTFORK));
	EXPECT_EQ(0, do_munmap(addr, granule, 0));
	EXPECT_EQ(rest, do_status("VmSharedPT:", 0, 0));
	EXPECT_EQ(0, do_munmap(border, a->len - granule, 0));
	EXPECT_EQ(0, do_status("VmSharedPT:", 0, 0));
}

TEST_F(guests, dontfork)
{
	struct arena *a = &self->a;
	struct proc *child = &a->proc[CHILD];

	EXPECT_EQ(0, do_madvise(a->proc[ME].map, granule, MADV_DONTFORK));
	start(_metadata, child);
	child->map = a->proc[ME].map;
	EXPECT_EQ(-SIGSEGV, ask(a, CHILD, do_access, 0, 1, -1));
	EXPECT_EQ(0, ask(a, CHILD, do_access, granule, 1, -1));
	stop(child);
}

TEST_F(guests, mincore_and_msync)
{
	struct arena *a = &self->a;
	unsigned char *in = malloc(a->len / pagesize);
	size_t i;

	ask(a, PEER, do_touch, granule, granule, 1);
	EXPECT_EQ(0, mincore(a->proc[ME].map, a->len, in));
	for (i = granule; i < 2 * granule; i += pagesize)
		EXPECT_EQ(1, in[i / pagesize] & 1);
	EXPECT_EQ(0, in[a->len / pagesize - 1] & 1);
	free(in);
	EXPECT_EQ(0, msync(a->proc[ME].map, a->len, MS_SYNC));
	EXPECT_EQ(0, msync(a->proc[ME].map + pagesize, pagesize, MS_ASYNC));
}

TEST_F(guests, clear_refs)
{
	static const char * const what[] = { "1", "4" };	/* referenced, soft-dirty */
	struct arena *a = &self->a;
	long kb = a->len >> 10;
	size_t i;
	int fd;

	do_touch(a->proc[ME].map, a->len, 1);
	for (i = 0; i < (softdirty_supported() ? 2 : 1); i++) {
		EXPECT_EQ(kb, ask(a, ME, do_smaps, 0, a->len, (long)"Referenced:"));
		fd = open("/proc/self/clear_refs", O_WRONLY);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(1, write(fd, what[i], 1));
		close(fd);
		EXPECT_EQ(kb, ask(a, ME, do_smaps, 0, a->len, (long)"Referenced:"));
		EXPECT_EQ(0, do_touch(a->proc[ME].map, a->len, 2));
	}
}

/* Locking */

static long locked_kb(struct arena *a, int nr)
{
	return call(a, nr, do_status, "VmLck:", 0, 0);
}

static bool may_lock(size_t len)
{
	struct rlimit limit;

	return !geteuid() || (!getrlimit(RLIMIT_MEMLOCK, &limit) && limit.rlim_cur >= len);
}

TEST_F(guests, mlock)
{
	struct arena *a = &self->a;
	bool pageable = can_page_out(variant->kind, granule);
	long pages = granule / pagesize;
	long kb = granule >> 10;

	if (!may_lock(2 * granule))
		SKIP(return, "this user may not lock that much");

	/* Counted for who locks, present for all. */
	ASSERT_EQ(0, ask(a, ME, do_mlock, 0, 2 * granule, 0));
	EXPECT_EQ(2 * kb, locked_kb(a, ME));
	EXPECT_EQ(0, locked_kb(a, PEER));
	EXPECT_EQ(2 * pages, ask(a, ME, do_present, 0, 2 * granule, 0));
	EXPECT_EQ(link_faults(a->proc[OTHER].map, 2 * granule),
		  ask(a, OTHER, do_touch, 0, 2 * granule, -1));
	ASSERT_EQ(0, ask(a, PEER, do_mlock, 0, granule, 0));
	EXPECT_EQ(kb, locked_kb(a, PEER));

	/* Two have locked the first granule, one the second, nobody the third. */
	ask(a, OTHER, do_touch, 0, 3 * granule, 1);
	make_clean(a);
	EXPECT_EQ(0, ask(a, OTHER, do_madvise, 0, 3 * granule, MADV_PAGEOUT));
	EXPECT_EQ(2 * pages, ask(a, OTHER, do_present, 0, 2 * granule, 0));
	if (pageable)
		EXPECT_GT(pages / 2, ask(a, OTHER, do_present, 2 * granule, granule, 0));
	EXPECT_EQ(-EINVAL, ask(a, ME, do_madvise, 0, granule, MADV_PAGEOUT));

	/* One unlocks, and is the last one for the second granule alone. */
	EXPECT_EQ(0, ask(a, ME, do_munlock, 0, 2 * granule, 0));
	EXPECT_EQ(0, locked_kb(a, ME));
	EXPECT_EQ(0, ask(a, ME, do_madvise, 0, 2 * granule, MADV_PAGEOUT));
	EXPECT_EQ(pages, ask(a, OTHER, do_present, 0, granule, 0));
	if (pageable)
		EXPECT_GT(pages / 2, ask(a, OTHER, do_present, granule, granule, 0));

	/* The other one goes without a word. */
	stop(&a->proc[PEER]);
	EXPECT_EQ(0, ask(a, OTHER, do_madvise, 0, granule, MADV_PAGEOUT));
	if (pageable)
		EXPECT_GT(pages / 2, ask(a, OTHER, do_present, 0, granule, 0));
	EXPECT_EQ(1, ask(a, OTHER, do_access, 0, 1, -1));
}

TEST_F(guests, no_mlock_of_a_part_of_a_granule)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map, rights[5];

	EXPECT_EQ(-EINVAL, do_mlock(addr, pagesize, 0));
	EXPECT_EQ(-EINVAL, do_mlock(addr + granule / 2, granule, 0));
	EXPECT_EQ(0, locked_kb(a, ME));
	EXPECT_EQ(0, do_present(addr, a->len, 0));
	EXPECT_EQ(1, maps_lines(addr, a->len, rights));
}

TEST_F(guests, mlock_on_fault)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map;

	if (!may_lock(granule))
		SKIP(return, "this user may not lock that much");
	ASSERT_EQ(0, mlock2(addr, granule, MLOCK_ONFAULT));
	EXPECT_EQ((long)granule >> 10, locked_kb(a, ME));
	EXPECT_EQ(0, do_present(addr, granule, 0));
	do_touch(addr, granule, 1);
	make_clean(a);
	ask(a, PEER, do_touch, 0, granule, -1);
	EXPECT_EQ(0, ask(a, PEER, do_madvise, 0, granule, MADV_PAGEOUT));
	EXPECT_EQ((long)(granule / pagesize), do_present(addr, granule, 0));
	EXPECT_EQ(0, munlock(addr, granule));
}

TEST_F(guests, mlockall)
{
	struct arena *a = &self->a;
	long pages = a->len / pagesize;
	char *addr;

	if (geteuid())
		SKIP(return, "an ordinary user may not lock all there is");
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	EXPECT_EQ(pages, do_present(a->proc[ME].map, a->len, 0));
	EXPECT_LE((long)a->len >> 10, locked_kb(a, ME));
	addr = map(granule, RW, SHARED_PT | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, addr);
	EXPECT_EQ((long)(granule / pagesize), do_present(addr, granule, 0));
	EXPECT_TRUE(has_vm_flag(addr, "lo"));
	EXPECT_EQ(0, munmap(addr, granule));
	EXPECT_EQ(0, munlockall());
	EXPECT_EQ(0, locked_kb(a, ME));
}

TEST_F(files, map_locked)
{
	struct arena *a = &self->a;
	char *addr;

	if (!may_lock(granule))
		SKIP(return, "this user may not lock that much");
	addr = map(granule, RW, SHARED_PT | MAP_LOCKED, a->fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	EXPECT_EQ((long)granule >> 10, locked_kb(a, ME));
	EXPECT_EQ((long)(granule / pagesize), do_present(addr, granule, 0));
	EXPECT_EQ(1, ask(a, PEER, do_touch, 0, granule, -1));
	EXPECT_EQ(0, munmap(addr, granule));
	EXPECT_EQ(0, locked_kb(a, ME));
}

TEST_F(guests, mlock_limit)
{
	struct arena *a = &self->a;

	if (!may_lock(granule))
		SKIP(return, "this user may not lock that much");
	/* What one has locked says nothing about the next one's limit. */
	ASSERT_EQ(0, ask(a, PEER, do_mlock_limited, 0, granule, 0));
	EXPECT_EQ(-ENOMEM, ask(a, PEER, do_mlock, 0, 2 * granule, 0));
	EXPECT_EQ(0, ask(a, OTHER, do_mlock_limited, 0, granule, 0));
	EXPECT_EQ((long)granule >> 10, locked_kb(a, PEER));
	EXPECT_EQ((long)granule >> 10, locked_kb(a, OTHER));
}

/* Left out */

TEST_F(guests, userfaultfd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct arena *a = &self->a;
	char *ordinary;
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	ordinary = map(a->len, RW, MAP_SHARED | (a->fd < 0 ? MAP_ANONYMOUS : 0), a->fd, 0);
	ASSERT_NE(MAP_FAILED, ordinary);
	if (uffd_register(uffd, ordinary, a->len, true, false, false))
		SKIP(goto out, "no userfaultfd on such memory");
	EXPECT_EQ(-EINVAL, uffd_register(uffd, a->proc[ME].map, a->len, true, false, false));
	EXPECT_EQ(-EINVAL, uffd_register(uffd, a->proc[ME].map, a->len, false, true, false));
	EXPECT_EQ(3, do_access(a->proc[ME].map, 1, 3));
out:
	munmap(ordinary, a->len);
	close(uffd);
}

TEST_F(guests, remap_file_pages)
{
	struct arena *a = &self->a;
	char *addr = a->proc[ME].map;

	EXPECT_EQ(-1, syscall(__NR_remap_file_pages, addr, granule, 0,
			      granule / pagesize, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(3, do_access(addr, 1, 3));
}

/* Seeing it */

TEST_F(guests, smaps)
{
	struct arena *a = &self->a;
	long kb = a->len >> 10, pss, shared, private;
	int i, sharers;

	for (i = 0; i < PROCS; i++)
		ask(a, i, do_touch, 0, a->len, 1);
	EXPECT_TRUE(has_vm_flag(a->proc[ME].map, "pt"));

	for (sharers = PROCS; sharers; sharers--) {
		for (i = 0; i < sharers; i++) {
			EXPECT_EQ(kb, ask(a, i, do_smaps, 0, a->len, (long)"Rss:"));
			pss = ask(a, i, do_smaps, 0, a->len, (long)"Pss:");
			EXPECT_LE(kb / sharers - 1, pss);
			EXPECT_GE(kb / sharers + 1, pss);
			shared = ask(a, i, do_smaps, 0, a->len, (long)"Shared_Dirty:") +
				 ask(a, i, do_smaps, 0, a->len, (long)"Shared_Clean:");
			EXPECT_EQ(sharers > 1 ? kb : 0, shared);
			private = ask(a, i, do_smaps, 0, a->len, (long)"Private_Dirty:") +
				  ask(a, i, do_smaps, 0, a->len, (long)"Private_Clean:");
			EXPECT_EQ(sharers > 1 ? 0 : kb, private);
		}
		if (sharers > 1)
			stop(&a->proc[sharers - 1]);
	}
}

/* VmRSS counts a linked granule whole. */
TEST_F(guests, vm_rss)
{
	struct arena *a = &self->a;
	long before = do_status("VmRSS:", 0, 0);

	do_touch(a->proc[ME].map, a->len, 1);
	EXPECT_LE(before + (long)(a->len >> 10), do_status("VmRSS:", 0, 0));
	EXPECT_EQ(0, do_madvise(a->proc[ME].map, a->len, MADV_DONTNEED));
	EXPECT_GT(before + (long)(granule >> 10), do_status("VmRSS:", 0, 0));
}

/* Safety: no way in gives more than the protection in force, or the class. */

static void expect_no_write(struct __test_metadata *_metadata, char *addr)
{
	char byte = 99;
	struct iovec local = { &byte, 1 }, remote = { addr, 1 };
	int pipefd[2], mem;

	EXPECT_EQ(-SIGSEGV, do_access(addr, 1, 99));
	EXPECT_EQ(-1, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	mem = open("/proc/self/mem", O_RDWR);
	ASSERT_GE(mem, 0);
	EXPECT_EQ(-1, pwrite(mem, &byte, 1, (off_t)addr));
	close(mem);
	ASSERT_EQ(0, pipe(pipefd));
	EXPECT_EQ(1, write(pipefd[1], &byte, 1));
	EXPECT_EQ(-1, read(pipefd[0], addr, 1));
	EXPECT_EQ(EFAULT, errno);
	close(pipefd[0]);
	close(pipefd[1]);
}

TEST_F(guests, no_write_past_the_protection_in_force)
{
	struct arena *a = &self->a;

	do_touch(a->proc[ME].map, a->len, 1);
	EXPECT_EQ(0, ask(a, PEER, do_mprotect, 0, granule, PROT_READ));
	expect_no_write(_metadata, a->proc[ME].map);
	EXPECT_EQ(1, do_access(a->proc[ME].map, 1, -1));
}

TEST_F(files, no_write_past_the_open_file)
{
	struct arena *a = &self->a;
	int readonly = do_reopen(NULL, O_RDONLY, a->fd);
	char *addr;

	ASSERT_GE(readonly, 0);
	do_touch(a->proc[ME].map, a->len, 1);
	addr = map(a->len, PROT_READ, SHARED_PT, readonly, 0);
	ASSERT_NE(MAP_FAILED, addr);
	expect_no_write(_metadata, addr);
	do_touch(addr, a->len, -1);
	expect_no_write(_metadata, addr);
	EXPECT_EQ(1, do_access(addr, 1, -1));
	EXPECT_EQ(0, munmap(addr, a->len));
	close(readonly);
}

/* Why there is nothing to test, if so. */
static const char *why_not(void)
{
	int fd = open_memfd();
	const char *ret = NULL;
	char *addr;

	if (fd < 0)
		return memfd.skip;
	/* Other errors than this one are for the tests to find. */
	addr = map(granule, RW, MAP_SHARED_VALIDATE | MAP_SHARED_PT, fd, 0);
	if (addr != MAP_FAILED)
		munmap(addr, granule);
	else if (errno == EOPNOTSUPP)
		ret = number_in(SYSFS "enabled") ?
			"this kernel has no MAP_SHARED_PT" :
			"MAP_SHARED_PT is switched off in " SYSFS "enabled";
	close(fd);
	return ret;
}

int main(int argc, char **argv)
{
	const char *skip;

	pagesize = psize();
	granule = number_in(SYSFS "granule");
	if ((long)granule <= 0)
		granule = read_pmd_pagesize() ?: 512 * pagesize;

	skip = why_not();
	if (skip) {
		ksft_print_header();
		ksft_exit_skip("%s\n", skip);
	}
	return test_harness_run(argc, argv);
}

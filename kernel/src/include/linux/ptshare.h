/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page tables shared between processes, see Documentation/mm/ptshare.rst
 */
#ifndef _LINUX_PTSHARE_H
#define _LINUX_PTSHARE_H

#include <linux/mm.h>

struct file;
struct mmu_gather;
struct ptshare_domain;

#ifdef CONFIG_PTSHARE

/* A guest VMA holds no page tables of its own, it links to those of a host mm. */
static inline bool vma_is_ptshare_guest(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_SHARED_PT;
}

/* The mm_struct that owns the tables of a domain. No task runs in it. */
static inline bool mm_is_ptshare_host(const struct mm_struct *mm)
{
	return mm->ptshare_host;
}

/* Has it, or has it had, guests? */
static inline bool mm_is_ptshare_guest(const struct mm_struct *mm)
{
	return READ_ONCE(mm->ptshare_guest);
}

/* NULL for an ordinary VMA, and for a guest not attached yet, or closed. */
static inline struct ptshare_domain *
vma_ptshare_domain(const struct vm_area_struct *vma)
{
	return vma_is_ptshare_guest(vma) ? vma->vm_private_data : NULL;
}

/* Memory under shared tables that @mm has linked, in bytes. */
static inline unsigned long mm_ptshare_bytes(const struct mm_struct *mm)
{
	return (atomic_long_read(&mm->ptshare_granules[0]) +
		atomic_long_read(&mm->ptshare_granules[1])) << PMD_SHIFT;
}

/*
 * What VmRSS counts for them, in pages: a granule as a whole. Exact numbers are
 * in smaps.
 */
static inline unsigned long mm_ptshare_pages(const struct mm_struct *mm,
					     bool shmem)
{
	return atomic_long_read(&mm->ptshare_granules[shmem]) <<
	       (PMD_SHIFT - PAGE_SHIFT);
}

unsigned long ptshare_do_mmap(struct file *file, unsigned long addr,
			      unsigned long len, unsigned long prot,
			      unsigned long flags, unsigned long pgoff,
			      unsigned long *populate, struct list_head *uf);
unsigned long ptshare_get_unmapped_area(struct file *file, unsigned long addr,
					unsigned long len, unsigned long pgoff,
					unsigned long flags);
int ptshare_attach(struct vm_area_struct *vma);
bool ptshare_may_mremap(struct vm_area_struct *vma, unsigned long addr,
			unsigned long old_len, unsigned long new_len,
			unsigned long new_addr);

void ptshare_link_warm(struct vm_area_struct *vma, unsigned long start,
		       unsigned long end);
vm_fault_t ptshare_fault(struct vm_area_struct *vma, unsigned long addr,
			 unsigned int flags);
int ptshare_gup_check(struct vm_area_struct *vma, unsigned long addr,
		      unsigned int gup_flags, unsigned long *checked);
void ptshare_unlink_range(struct mmu_gather *tlb, struct vm_area_struct *vma,
			  unsigned long start, unsigned long end);
int ptshare_mprotect(struct vm_area_struct *vma, unsigned long start,
		     unsigned long end, unsigned long prot, bool rier, int pkey);
vm_flags_t ptshare_segment(struct vm_area_struct *vma, unsigned long addr,
			   unsigned long *start, unsigned long *end);

unsigned int ptshare_sharers(const struct vm_area_struct *vma,
			     unsigned long addr);
unsigned long ptshare_oom_pages(struct mm_struct *mm);

int ptshare_mlock(struct vm_area_struct *vma, unsigned long start,
		  unsigned long end, vm_flags_t oldflags, vm_flags_t newflags);
int ptshare_munlock_begin(struct vm_area_struct *vma, unsigned long start,
			  unsigned long end);
int ptshare_relock(struct vm_area_struct *vma);
struct ptshare_domain *__ptshare_lock_windows(struct vm_area_struct *vma,
					      struct vm_area_struct *adjacent);
void __ptshare_unlock_windows(struct ptshare_domain *domain);

/**
 * ptshare_lock_windows - before the window of a VMA changes
 * @vma: the VMA; its mm's mmap_lock is held for writing
 * @adjacent: another one of which the same is true, or NULL
 *
 * Return: what to give to ptshare_unlock_windows().
 */
static inline struct ptshare_domain *
ptshare_lock_windows(struct vm_area_struct *vma, struct vm_area_struct *adjacent)
{
	if (likely(!vma_ptshare_domain(vma)))
		return NULL;
	return __ptshare_lock_windows(vma, adjacent);
}

static inline void ptshare_unlock_windows(struct ptshare_domain *domain)
{
	if (unlikely(domain))
		__ptshare_unlock_windows(domain);
}

void ptshare_take_windows(struct vm_area_struct *vma);
void ptshare_drop_windows(struct vm_area_struct *vma);
void ptshare_listen_all(struct mm_struct *mm);

#else /* !CONFIG_PTSHARE */

static inline bool vma_is_ptshare_guest(const struct vm_area_struct *vma)
{
	return false;
}

static inline bool mm_is_ptshare_guest(const struct mm_struct *mm)
{
	return false;
}

static inline bool mm_is_ptshare_host(const struct mm_struct *mm)
{
	return false;
}

static inline struct ptshare_domain *
vma_ptshare_domain(const struct vm_area_struct *vma)
{
	return NULL;
}

static inline unsigned long mm_ptshare_pages(const struct mm_struct *mm,
					     bool shmem)
{
	return 0;
}

static inline unsigned long
ptshare_do_mmap(struct file *file, unsigned long addr, unsigned long len,
		unsigned long prot, unsigned long flags, unsigned long pgoff,
		unsigned long *populate, struct list_head *uf)
{
	return -EOPNOTSUPP;
}

static inline unsigned long
ptshare_get_unmapped_area(struct file *file, unsigned long addr,
			  unsigned long len, unsigned long pgoff,
			  unsigned long flags)
{
	return -EOPNOTSUPP;
}

static inline int ptshare_attach(struct vm_area_struct *vma)
{
	return -EOPNOTSUPP;
}

static inline bool ptshare_may_mremap(struct vm_area_struct *vma,
				      unsigned long addr, unsigned long old_len,
				      unsigned long new_len,
				      unsigned long new_addr)
{
	return true;
}

static inline void ptshare_link_warm(struct vm_area_struct *vma,
				     unsigned long start, unsigned long end)
{
}

static inline vm_fault_t ptshare_fault(struct vm_area_struct *vma,
				       unsigned long addr, unsigned int flags)
{
	return VM_FAULT_SIGBUS;
}

static inline int ptshare_gup_check(struct vm_area_struct *vma,
				    unsigned long addr, unsigned int gup_flags,
				    unsigned long *checked)
{
	return 0;
}

static inline void ptshare_unlink_range(struct mmu_gather *tlb,
					struct vm_area_struct *vma,
					unsigned long start, unsigned long end)
{
}

static inline int ptshare_mprotect(struct vm_area_struct *vma,
				   unsigned long start, unsigned long end,
				   unsigned long prot, bool rier, int pkey)
{
	return -EINVAL;
}

static inline vm_flags_t ptshare_segment(struct vm_area_struct *vma,
					 unsigned long addr,
					 unsigned long *start,
					 unsigned long *end)
{
	return vma->vm_flags;
}

static inline unsigned int ptshare_sharers(const struct vm_area_struct *vma,
					   unsigned long addr)
{
	return 1;
}

static inline unsigned long ptshare_oom_pages(struct mm_struct *mm)
{
	return 0;
}

static inline int ptshare_mlock(struct vm_area_struct *vma, unsigned long start,
				unsigned long end, vm_flags_t oldflags,
				vm_flags_t newflags)
{
	return 0;
}

static inline int ptshare_munlock_begin(struct vm_area_struct *vma,
					unsigned long start, unsigned long end)
{
	return 0;
}

static inline int ptshare_relock(struct vm_area_struct *vma)
{
	return 0;
}

static inline struct ptshare_domain *
ptshare_lock_windows(struct vm_area_struct *vma, struct vm_area_struct *adjacent)
{
	return NULL;
}

static inline void ptshare_unlock_windows(struct ptshare_domain *domain)
{
}

static inline void ptshare_take_windows(struct vm_area_struct *vma)
{
}

static inline void ptshare_drop_windows(struct vm_area_struct *vma)
{
}

static inline void ptshare_listen_all(struct mm_struct *mm)
{
}

#endif /* CONFIG_PTSHARE */

/**
 * vma_table_sharers - by how many VMAs is a table of PTEs used?
 * @vma: a VMA, guest or not
 * @addr: an address in it that the table maps
 *
 * The mapcount of a page under a shared table is that of the host, so 1 for
 * all guests together.
 *
 * Return: 1, or the number of guests that have linked the table around @addr.
 */
static inline unsigned int vma_table_sharers(const struct vm_area_struct *vma,
					     unsigned long addr)
{
	return vma_is_ptshare_guest(vma) ? ptshare_sharers(vma, addr) : 1;
}

/**
 * vma_segment - the protection in force around an address
 * @vma: a VMA, guest or not
 * @addr: an address in it
 * @start: set to where this protection begins
 * @end: set to where it ends
 *
 * An ordinary VMA has one protection. The protection of a guest is the
 * domain's, and may change from page to page.
 *
 * Return: the VMA's flags, with VM_READ, VM_WRITE and VM_EXEC as they are in
 * force over [@start, @end).
 */
static inline vm_flags_t vma_segment(struct vm_area_struct *vma,
				     unsigned long addr, unsigned long *start,
				     unsigned long *end)
{
	*start = vma->vm_start;
	*end = vma->vm_end;
	if (!vma_is_ptshare_guest(vma))
		return vma->vm_flags;
	return ptshare_segment(vma, addr, start, end);
}

/* The VMA's flags, with the rights that are in force for any part of it. */
static inline vm_flags_t vma_rights(struct vm_area_struct *vma)
{
	unsigned long addr = vma->vm_start, start, end;
	vm_flags_t flags = 0;

	if (!vma_is_ptshare_guest(vma))
		return vma->vm_flags;
	for (; addr < vma->vm_end; addr = end)
		flags |= vma_segment(vma, addr, &start, &end);
	return flags;
}

#endif /* _LINUX_PTSHARE_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page tables shared between processes, see Documentation/mm/ptshare.rst
 */
#ifndef _LINUX_PTSHARE_H
#define _LINUX_PTSHARE_H

#include <linux/mm.h>

struct file;
struct mmu_gather;
struct ptshare_carry;
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

/* NULL for an ordinary VMA, and for a guest that has not been attached yet. */
static inline struct ptshare_domain *
vma_ptshare_domain(const struct vm_area_struct *vma)
{
	return vma_is_ptshare_guest(vma) ? vma->vm_private_data : NULL;
}

/* Memory under shared tables that @mm has linked, in bytes. */
static inline unsigned long mm_ptshare_bytes(const struct mm_struct *mm)
{
	return atomic_long_read(&mm->ptshare_granules) << PMD_SHIFT;
}

int ptshare_mmap_check(struct file *file, unsigned long addr,
		       unsigned long len, unsigned long pgoff,
		       unsigned long flags);
unsigned long ptshare_get_unmapped_area(unsigned long addr, unsigned long len,
					unsigned long pgoff,
					unsigned long flags,
					vm_flags_t vm_flags);
int ptshare_attach(struct vm_area_struct *vma);
bool ptshare_may_mremap(struct vm_area_struct *vma, unsigned long addr,
			unsigned long old_len, unsigned long new_len,
			unsigned long new_addr);

struct ptshare_carry *ptshare_carry_begin(struct file *file,
					  unsigned long addr,
					  unsigned long len,
					  unsigned long pgoff,
					  unsigned long flags);
void ptshare_carry_end(struct ptshare_carry *carry, unsigned long addr);

vm_fault_t ptshare_fault(struct vm_area_struct *vma, unsigned long addr,
			 unsigned int flags);
int ptshare_gup_check(struct vm_area_struct *vma, unsigned long addr,
		      unsigned int gup_flags, unsigned long *checked);
void ptshare_unlink_range(struct mmu_gather *tlb, struct vm_area_struct *vma,
			  unsigned long start, unsigned long end);
int ptshare_mprotect(struct vm_area_struct *vma, unsigned long start,
		     unsigned long end, vm_flags_t newflags);
vm_flags_t ptshare_segment(struct vm_area_struct *vma, unsigned long addr,
			   unsigned long *start, unsigned long *end);

#else /* !CONFIG_PTSHARE */

static inline bool vma_is_ptshare_guest(const struct vm_area_struct *vma)
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

static inline int ptshare_mmap_check(struct file *file, unsigned long addr,
				     unsigned long len, unsigned long pgoff,
				     unsigned long flags)
{
	return 0;
}

static inline unsigned long
ptshare_get_unmapped_area(unsigned long addr, unsigned long len,
			  unsigned long pgoff, unsigned long flags,
			  vm_flags_t vm_flags)
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

static inline struct ptshare_carry *
ptshare_carry_begin(struct file *file, unsigned long addr, unsigned long len,
		    unsigned long pgoff, unsigned long flags)
{
	return NULL;
}

static inline void ptshare_carry_end(struct ptshare_carry *carry,
				     unsigned long addr)
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
				   vm_flags_t newflags)
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

#endif /* CONFIG_PTSHARE */

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

#endif /* _LINUX_PTSHARE_H */

// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a change of the host's entries has to reach in its guests, and which
 * of its pages they have locked: all that must know the guests' windows.
 *
 * TLBs need no windows, they are flushed on all CPUs that may run a guest.
 * mmu notifiers of a guest's mm (KVM, RDMA, HMM) are told about the guest's own
 * addresses. Between the start and the end of an invalidation its guest's
 * window must not change, and no notifier must appear that would see the end
 * alone: ptshare_domain.windows is held for reading from start to end, and for
 * writing to change either.
 */

#include <linux/mm.h>
#include <linux/ptshare.h>

#include <asm/tlbflush.h>

#include "../internal.h"
#include "ptshare.h"

/* Devices that walk a guest's tables themselves have a TLB of their own. */
void ptshare_flush_devices(struct mm_struct *host)
{
	struct ptshare_domain *domain = host->ptshare_host;
	struct vm_area_struct *guest;

	if (list_empty(&domain->watched))
		return;
	spin_lock(&domain->lock);
	list_for_each_entry(guest, &domain->watched, ptshare_watched)
		mmu_notifier_arch_invalidate_secondary_tlbs(guest->vm_mm, 0, -1UL);
	spin_unlock(&domain->lock);
}

/*
 * No CPU runs in the host mm, so the flush of the host mm itself reaches none.
 * This is called from the same place, and before pages are freed.
 */
static void ptshare_flush(struct mmu_notifier *mn, struct mm_struct *host,
			  unsigned long start, unsigned long end)
{
	arch_ptshare_flush();
	ptshare_flush_devices(host);
}

static void ptshare_free_flush_mn(struct mmu_notifier *mn)
{
	ptshare_put_domain_ref(container_of(mn, struct ptshare_domain, flush_mn));
}

const struct mmu_notifier_ops ptshare_flush_ops = {
	.arch_invalidate_secondary_tlbs	= ptshare_flush,
	.free_notifier			= ptshare_free_flush_mn,
};

/* What of a host's range a listener maps, at its own addresses. */
static bool ptshare_window_range(struct vm_area_struct *guest,
				 const struct mmu_notifier_range *host,
				 struct mmu_notifier_range *range)
{
	unsigned long window = ptshare_host_addr(guest, guest->vm_start);
	unsigned long start = max(host->start, window);
	unsigned long end = min(host->end, window + guest->vm_end - guest->vm_start);

	if (start >= end || !mm_has_notifiers(guest->vm_mm))
		return false;
	*range = *host;
	range->mm = guest->vm_mm;
	range->start = guest->vm_start + (start - window);
	range->end = guest->vm_start + (end - window);
	return true;
}

static int ptshare_range_start(struct mmu_notifier *mn,
			       const struct mmu_notifier_range *host)
{
	struct ptshare_domain *domain =
		container_of(mn, struct ptshare_domain, range_mn);
	struct mmu_notifier_range range;
	struct vm_area_struct *guest;

	/* Only the OOM reaper cannot block, and it has no business in a host. */
	if (!mmu_notifier_range_blockable(host))
		return -EAGAIN;

	/*
	 * Held until the end. For lockdep both callbacks run under one and the
	 * same lock, which makes this an inversion; it cannot be one, since
	 * who holds the lock for writing calls no notifier.
	 */
	down_read_non_owner(&domain->windows);

	/* No guests are left to be told, and the end may find no notifier. */
	if (domain->dying) {
		up_read_non_owner(&domain->windows);
		return 0;
	}

	list_for_each_entry(guest, &domain->watched, ptshare_watched) {
		if (ptshare_window_range(guest, host, &range))
			mmu_notifier_forward_start(&range);
	}
	return 0;
}

static void ptshare_range_end(struct mmu_notifier *mn,
			      const struct mmu_notifier_range *host)
{
	struct ptshare_domain *domain =
		container_of(mn, struct ptshare_domain, range_mn);
	struct mmu_notifier_range range;
	struct vm_area_struct *guest;

	/* Set once and for ever, and not between a start and its end. */
	if (domain->dying)
		return;
	list_for_each_entry(guest, &domain->watched, ptshare_watched) {
		if (ptshare_window_range(guest, host, &range))
			mmu_notifier_forward_end(&range);
	}
	up_read_non_owner(&domain->windows);
}

static void ptshare_free_range_mn(struct mmu_notifier *mn)
{
	ptshare_put_domain_ref(container_of(mn, struct ptshare_domain, range_mn));
}

const struct mmu_notifier_ops ptshare_range_ops = {
	.invalidate_range_start	= ptshare_range_start,
	.invalidate_range_end	= ptshare_range_end,
	.free_notifier		= ptshare_free_range_mn,
};

/*
 * Have a guest in the list exactly if somebody goes by its window: it has pages
 * locked, or its mm has notifiers.
 */
static void __ptshare_watch(struct vm_area_struct *guest, bool wanted)
{
	struct ptshare_domain *domain = vma_ptshare_domain(guest);

	lockdep_assert_held_write(&domain->windows);
	if (wanted != list_empty(&guest->ptshare_watched))
		return;
	spin_lock(&domain->lock);
	if (wanted)
		list_add_tail(&guest->ptshare_watched, &domain->watched);
	else
		list_del_init(&guest->ptshare_watched);
	spin_unlock(&domain->lock);
}

void ptshare_watch(struct vm_area_struct *guest, bool wanted)
{
	struct ptshare_domain *domain = vma_ptshare_domain(guest);

	down_write(&domain->windows);
	__ptshare_watch(guest, wanted);
	up_write(&domain->windows);
}

/**
 * ptshare_listen_all - an mm is about to have mmu notifiers
 * @mm: the mm, under mm_take_all_locks()
 */
void ptshare_listen_all(struct mm_struct *mm)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, 0);

	for_each_vma(vmi, vma) {
		if (vma_ptshare_domain(vma))
			__ptshare_watch(vma, true);
	}
}

/**
 * ptshare_take_windows - ptshare_domain.windows for mm_take_all_locks()
 * @vma: a guest
 *
 * mm_all_locks_mutex protects ptshare_domain.all_locks.
 */
void ptshare_take_windows(struct vm_area_struct *vma)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);

	if (domain->all_locks)
		return;
	down_write_nest_lock(&domain->windows, &vma->vm_mm->mmap_lock);
	domain->all_locks = true;
}

/**
 * ptshare_drop_windows - what ptshare_take_windows() took
 * @vma: a guest
 */
void ptshare_drop_windows(struct vm_area_struct *vma)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);

	if (!domain->all_locks)
		return;
	domain->all_locks = false;
	up_write(&domain->windows);
}

/* ptshare_lock_windows() for a guest. */
struct ptshare_domain *__ptshare_lock_windows(struct vm_area_struct *vma,
					      struct vm_area_struct *adjacent)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);

	if (list_empty(&vma->ptshare_watched) &&
	    (!adjacent || list_empty(&adjacent->ptshare_watched)))
		return NULL;
	down_write(&domain->windows);
	return domain;
}

void __ptshare_unlock_windows(struct ptshare_domain *domain)
{
	up_write(&domain->windows);
}

/*
 * Is the page at a host address locked by a guest other than @except? @next is
 * lowered to the address up to which the answer holds.
 */
static bool ptshare_page_locked(struct ptshare_domain *domain,
				struct vm_area_struct *except,
				unsigned long haddr, unsigned long *next)
{
	unsigned long reach = haddr, start, end;
	struct vm_area_struct *guest;

	down_read(&domain->windows);
	list_for_each_entry(guest, &domain->watched, ptshare_watched) {
		if (guest == except || !(guest->vm_flags & VM_LOCKED))
			continue;
		start = ptshare_host_addr(guest, guest->vm_start);
		end = start + (guest->vm_end - guest->vm_start);
		if (start > haddr)
			*next = min(*next, start);
		else
			reach = max(reach, end);
	}
	up_read(&domain->windows);

	if (reach == haddr)
		return false;
	*next = min(*next, reach);
	return true;
}

/* VM_LOCKED of the host's VMAs over a range, and the pages' mlock counts. */
static int ptshare_set_locked(struct mm_struct *host, unsigned long haddr,
			      unsigned long hend, vm_flags_t locked)
{
	struct vm_area_struct *vma, *prev;
	VMA_ITERATOR(vmi, host, haddr);
	int error;

	mmap_assert_write_locked(host);
	vma = vma_find(&vmi, hend);
	prev = vma_prev(&vmi);
	if (haddr > vma->vm_start)
		prev = vma;

	for_each_vma_range(vmi, vma, hend) {
		error = mlock_fixup(&vmi, vma, &prev, haddr,
				    min(vma->vm_end, hend),
				    (vma->vm_flags & ~VM_LOCKED) | locked);
		if (error)
			return error;
		haddr = vma_iter_end(&vmi);
	}
	return 0;
}

/*
 * Unlock what no guest but @except has locked. The guests' flags and windows
 * tell.
 */
static int __ptshare_unlock_pages(struct ptshare_domain *domain,
				  struct vm_area_struct *except,
				  unsigned long haddr, unsigned long hend)
{
	unsigned long addr, next;
	int error;

	for (addr = haddr; addr < hend; addr = next) {
		next = hend;
		if (ptshare_page_locked(domain, except, addr, &next))
			continue;
		error = ptshare_set_locked(domain->host, addr, next, 0);
		if (error)
			return error;
	}
	return 0;
}

/*
 * A guest that had these pages locked is gone. If there is not even the memory
 * to split a VMA, they stay locked until the next one unlocks them, or until
 * the domain's end.
 */
void ptshare_unlock_pages(struct ptshare_domain *domain, unsigned long haddr,
			  unsigned long hend)
{
	mmap_write_lock(domain->host);
	__ptshare_unlock_pages(domain, NULL, haddr, hend);
	mmap_write_unlock(domain->host);
}

/**
 * ptshare_lock_pages - lock in the host what a guest has locked
 * @guest: a guest with VM_LOCKED that is in its domain's list
 *
 * Who unlocks takes the host's mmap_lock before looking at the guests. So
 * either it sees this guest, or the pages are locked again here.
 *
 * Return: 0; -ENOMEM, and then nothing is locked that was not before.
 */
int ptshare_lock_pages(struct vm_area_struct *guest)
{
	struct ptshare_domain *domain = vma_ptshare_domain(guest);
	unsigned long haddr = ptshare_host_addr(guest, guest->vm_start);
	unsigned long hend = ptshare_host_addr(guest, guest->vm_end);
	int error = -ENOMEM;

	mmap_write_lock(domain->host);
	/* VMAs with a ->close() do not merge again when they are unlocked. */
	if (!domain->vm_ops->close ||
	    domain->host->map_count + 2 <= sysctl_max_map_count)
		error = ptshare_set_locked(domain->host, haddr, hend, VM_LOCKED);
	mmap_write_unlock(domain->host);
	return error;
}

static void ptshare_set_guest_flags(struct vm_area_struct *guest,
				    vm_flags_t flags)
{
	struct ptshare_domain *domain = vma_ptshare_domain(guest);

	vma_start_write(guest);
	down_write(&domain->windows);
	vm_flags_reset(guest, flags);
	__ptshare_watch(guest, (flags & VM_LOCKED) ||
			mm_has_notifiers(guest->vm_mm));
	up_write(&domain->windows);
}

/**
 * ptshare_munlock_begin - before a guest unlocks a part of what it has locked
 * @vma: the guest, with VM_LOCKED; its mm's mmap_lock is held for writing
 * @start: start of the range
 * @end: end of the range
 *
 * Return: 0, and ptshare_mlock() for the same range must come next; -ENOMEM,
 * and then all is as it was.
 */
int ptshare_munlock_begin(struct vm_area_struct *vma, unsigned long start,
			  unsigned long end)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);
	unsigned long haddr = ptshare_host_addr(vma, start);
	unsigned long hend = ptshare_host_addr(vma, end);
	int error;

	mmap_write_lock(domain->host);
	error = __ptshare_unlock_pages(domain, vma, haddr, hend);
	/* What was split for this only merges again. */
	if (error)
		ptshare_set_locked(domain->host, haddr, hend, VM_LOCKED);
	mmap_write_unlock(domain->host);
	return error;
}

/**
 * ptshare_mlock - mlock and munlock of a guest
 * @vma: the guest, as vma_modify_flags() made it for the range; its mm's
 *       mmap_lock is held for writing
 * @start: start of the range
 * @end: end of the range
 * @oldflags: what its flags were over the range
 * @newflags: what they are to be
 *
 * The pages stay locked in the host while any guest has them locked.
 *
 * Return: 0; -ENOMEM, and then the flags are the old ones unless the range is
 * part of a larger VMA by now.
 */
int ptshare_mlock(struct vm_area_struct *vma, unsigned long start,
		  unsigned long end, vm_flags_t oldflags, vm_flags_t newflags)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);
	unsigned long haddr = ptshare_host_addr(vma, start);
	unsigned long hend = ptshare_host_addr(vma, end);
	int error = 0;

	ptshare_set_guest_flags(vma, newflags);
	if (newflags & ~oldflags & VM_LOCKED) {
		error = ptshare_lock_pages(vma);
		if (error && vma->vm_start == start && vma->vm_end == end)
			ptshare_set_guest_flags(vma, oldflags);
	}
	if (error || (oldflags & ~newflags & VM_LOCKED))
		ptshare_unlock_pages(domain, haddr, hend);
	return error;
}

/**
 * ptshare_relock - a locked guest has grown, or its pages were not locked before
 * @vma: the guest; its mm's mmap_lock is held for writing
 *
 * Return: 0; -ENOMEM. Who has grown a guest ignores it, as it does when the new
 * pages cannot be populated. The next mlock() tries again.
 */
int ptshare_relock(struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_LOCKED ? ptshare_lock_pages(vma) : 0;
}

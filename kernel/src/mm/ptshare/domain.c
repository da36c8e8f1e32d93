// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page tables shared between processes.
 *
 * mmap(..., MAP_SHARED | MAP_SHARED_PT, fd, off) makes a guest: a VMA that is
 * a window on a file and has no page tables of its own. The tables belong to a
 * host mm in which no task runs, one for each (file, access class). The host
 * maps the file once, at the address PTSHARE_BASE + file offset, and it alone
 * stands in the file's i_mmap tree, so rmap, reclaim, truncation and writeback
 * see one mapping whatever the number of processes.
 *
 * A guest's PMD entry, or PUD entry for a whole aligned PUD_SIZE, links to a
 * table of the host. Tables of a host are freed only when its domain dies,
 * after the last guest was closed. Whoever holds a lock that keeps a guest VMA
 * alive may therefore walk its links.
 *
 * Lock order:
 *
 *   mmap_lock of the guest's mm
 *     ptshare_lock, with no lock under it
 *     mmap_lock of the host mm
 *       VMA locks of the host mm
 *         i_mmap_rwsem of the file
 *           ptshare_domain.windows
 *             page-table locks
 *               ptshare_domain.lock
 *
 * Documentation/mm/ptshare.rst tells the whole.
 */

#include <linux/file.h>
#include <linux/hashtable.h>
#include <linux/ptshare.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/user_namespace.h>

#include <asm/tlbflush.h>

#include "../internal.h"
#include "../vma.h"
#include "ptshare.h"

#define CREATE_TRACE_POINTS
#include <trace/events/ptshare.h>

static DEFINE_MUTEX(ptshare_lock);
static DEFINE_HASHTABLE(ptshare_domains, 8);
static unsigned long ptshare_nr_domains;	/* under ptshare_lock */
static u64 ptshare_ids;				/* under ptshare_lock */
static atomic_long_t ptshare_nr_guests = ATOMIC_LONG_INIT(0);

static struct lock_class_key ptshare_host_mmap_lock_key;

void ptshare_put_domain_ref(struct ptshare_domain *domain)
{
	if (refcount_dec_and_test(&domain->refs))
		kfree(domain);
}

/*
 * The host's one mapping of the file, from offset 0 on. It continues what
 * ->mmap() set up in the guest.
 */
static int ptshare_map_file(struct mm_struct *host, struct vm_area_struct *guest)
{
	struct vm_area_struct *vma;
	int error;

	mmap_assert_write_locked(host);

	vma = vm_area_alloc(host);
	if (!vma)
		return -ENOMEM;
	vma_set_range(vma, PTSHARE_BASE, PTSHARE_LIMIT, 0);
	/*
	 * VM_NOHUGEPAGE: links cannot stand for a huge PMD, and khugepaged must
	 * not take a table away. VM_SOFTDIRTY: nobody tracks soft-dirty here.
	 */
	vm_flags_init(vma, (guest->vm_flags & (PTSHARE_CLASS | VM_SHARED |
					       VM_MAYSHARE | VM_NORESERVE)) |
			   VM_NOHUGEPAGE | VM_SOFTDIRTY);
	vma->vm_ops = guest->vm_ops;
	vma->vm_file = get_file(guest->vm_file);
	if (vma->vm_ops->open)
		vma->vm_ops->open(vma);
	vma_set_page_prot(vma);

	error = vma_link(host, vma);
	if (error)
		remove_vma(vma, /* unreachable = */ true);
	return error;
}

/* The tables go at once; the domain itself when no flush can be looking at it. */
static void ptshare_free_domain(struct ptshare_domain *domain)
{
	struct mm_struct *host = domain->host;

	/* Wait for those who have seen the start of an invalidation. */
	down_write(&domain->windows);
	domain->dying = true;
	up_write(&domain->windows);

	mmu_notifier_put(&domain->flush_mn);
	mmu_notifier_put(&domain->range_mn);
	mmput(host);
	/* Until the host's VMAs were gone from i_mmap, rmap could find it. */
	ptshare_put_domain_ref(domain);
}

static struct mm_struct *ptshare_alloc_host(struct ptshare_domain *domain)
{
	struct mm_struct *host = mm_alloc();

	if (!host)
		return NULL;
	lockdep_set_class(&host->mmap_lock, &ptshare_host_mmap_lock_key);
	host->ptshare_host = domain;
	/* Guests may outlive the user namespace of who came first. */
	put_user_ns(host->user_ns);
	host->user_ns = get_user_ns(&init_user_ns);
#ifdef CONFIG_MEMCG
	/* Nobody's: what is charged goes to whoever faults. */
	host->owner = NULL;
#endif
	return host;
}

/* What mprotect() may do in the domain is a part of the class, too. */
static bool ptshare_mdwe(const struct vm_area_struct *guest)
{
	return test_bit(MMF_HAS_MDWE, &guest->vm_mm->flags);
}

static struct ptshare_domain *ptshare_alloc_domain(struct vm_area_struct *guest)
{
	struct ptshare_domain *domain;
	struct mm_struct *host;
	int error;

	domain = kzalloc(sizeof(*domain), GFP_KERNEL_ACCOUNT);
	if (!domain)
		return ERR_PTR(-ENOMEM);
	domain->host = ptshare_alloc_host(domain);
	host = domain->host;
	if (!host) {
		kfree(domain);
		return ERR_PTR(-ENOMEM);
	}
	domain->mapping = guest->vm_file->f_mapping;
	domain->class = guest->vm_flags & PTSHARE_CLASS;
	domain->mdwe = ptshare_mdwe(guest);
	domain->file = guest->vm_file;
	domain->vm_ops = guest->vm_ops;
	domain->flush_mn.ops = &ptshare_flush_ops;
	domain->range_mn.ops = &ptshare_range_ops;
	refcount_set(&domain->refs, 3);
	refcount_set(&domain->guests_ref, 1);
	spin_lock_init(&domain->lock);
	INIT_LIST_HEAD(&domain->guests);
	init_rwsem(&domain->windows);
	INIT_LIST_HEAD(&domain->watched);

	mmap_write_lock(domain->host);
	error = __mmu_notifier_register(&domain->flush_mn, domain->host);
	if (error)
		goto free;
	error = __mmu_notifier_register(&domain->range_mn, domain->host);
	if (error)
		goto put_flush_mn;
	error = ptshare_map_file(domain->host, guest);
	mmap_write_unlock(domain->host);
	if (error) {
		ptshare_free_domain(domain);
		return ERR_PTR(error);
	}
	return domain;

put_flush_mn:
	refcount_set(&domain->refs, 1);
	mmu_notifier_put(&domain->flush_mn);
	domain = NULL;
free:
	mmap_write_unlock(host);
	mmput(host);
	kfree(domain);
	return ERR_PTR(error);
}

static struct ptshare_domain *ptshare_find_domain(struct vm_area_struct *guest)
{
	struct address_space *mapping = guest->vm_file->f_mapping;
	vm_flags_t class = guest->vm_flags & PTSHARE_CLASS;
	struct ptshare_domain *domain;

	lockdep_assert_held(&ptshare_lock);
	hash_for_each_possible(ptshare_domains, domain, node,
			       (unsigned long)mapping) {
		if (domain->mapping == mapping && domain->class == class &&
		    domain->mdwe == ptshare_mdwe(guest)) {
			refcount_inc(&domain->guests_ref);
			return domain;
		}
	}
	return NULL;
}

static struct ptshare_domain *ptshare_get_domain(struct vm_area_struct *guest)
{
	struct ptshare_domain *domain, *new;

	mutex_lock(&ptshare_lock);
	domain = ptshare_find_domain(guest);
	mutex_unlock(&ptshare_lock);
	if (domain)
		return domain;

	/* Not under the lock: this can wait for a cgroup's memory. */
	new = ptshare_alloc_domain(guest);
	if (IS_ERR(new))
		return new;

	mutex_lock(&ptshare_lock);
	domain = ptshare_find_domain(guest);
	if (!domain) {
		hash_add(ptshare_domains, &new->node,
			 (unsigned long)new->mapping);
		ptshare_nr_domains++;
		new->id = ++ptshare_ids;
		domain = new;
		new = NULL;
		trace_ptshare_create(domain->host, domain->mapping,
				     domain->class);
	}
	mutex_unlock(&ptshare_lock);

	if (new)
		ptshare_free_domain(new);
	return domain;
}

void ptshare_put_domain(struct ptshare_domain *domain)
{
	if (!refcount_dec_and_mutex_lock(&domain->guests_ref, &ptshare_lock))
		return;
	hash_del(&domain->node);
	ptshare_nr_domains--;
	trace_ptshare_free(domain->host, domain->mapping, domain->class);
	mutex_unlock(&ptshare_lock);

	ptshare_free_domain(domain);
}

/*
 * The guest whose open file the host borrowed is gone. Borrow from another
 * one, so that a mount, a lock on the open file and whatever else hangs on it
 * are held no longer than an ordinary mapping would.
 */
static void ptshare_borrow_file(struct ptshare_domain *domain)
{
	struct vm_area_struct *guest, *vma;
	struct file *old, *file = NULL;
	unsigned long nr_refs = 0;
	VMA_ITERATOR(vmi, domain->host, 0);

	mmap_write_lock(domain->host);

	spin_lock(&domain->lock);
	old = domain->file;
	guest = list_first_entry_or_null(&domain->guests, struct vm_area_struct,
					 ptshare_node);
	/* Without guests the domain is about to die, and with it the loan. */
	if (guest && guest->vm_file != old) {
		file = get_file(guest->vm_file);
		domain->file = file;
	}
	spin_unlock(&domain->lock);

	if (!file)
		goto unlock;

	/* Faults look at a VMA's file under its lock, rmap under i_mmap_rwsem. */
	for_each_vma(vmi, vma)
		vma_start_write(vma);
	vma_iter_init(&vmi, domain->host, 0);
	i_mmap_lock_write(domain->mapping);
	for_each_vma(vmi, vma) {
		vma->vm_file = get_file(file);
		nr_refs++;
	}
	i_mmap_unlock_write(domain->mapping);
	fput(file);
unlock:
	mmap_write_unlock(domain->host);

	while (nr_refs--)
		fput(old);
}

static void ptshare_add_guest(struct ptshare_domain *domain,
			      struct vm_area_struct *vma)
{
	bool borrow;

	spin_lock(&domain->lock);
	/* The lender was closed when this one was on its way. */
	borrow = list_empty(&domain->guests) && vma->vm_file != domain->file;
	list_add_tail(&vma->ptshare_node, &domain->guests);
	INIT_LIST_HEAD(&vma->ptshare_watched);
	spin_unlock(&domain->lock);
	atomic_long_inc(&ptshare_nr_guests);
	trace_ptshare_attach(vma, domain->host);

	if (borrow)
		ptshare_borrow_file(domain);
	arch_ptshare_start(vma->vm_mm);
	if ((vma->vm_flags & VM_LOCKED) || mm_has_notifiers(vma->vm_mm))
		ptshare_watch(vma, true);
}

/* fork, or a split or move of a guest. */
static void ptshare_guest_open(struct vm_area_struct *vma)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);

	refcount_inc(&domain->guests_ref);
	ptshare_add_guest(domain, vma);
	/* Moved, it may have grown. */
	ptshare_relock(vma);
}

/* The links are gone and flushed: mm does both before it closes a VMA. */
static void ptshare_guest_close(struct vm_area_struct *vma)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);
	struct vm_area_struct *first;
	bool borrow;

	trace_ptshare_detach(vma, domain->host);
	if (!list_empty(&vma->ptshare_watched))
		ptshare_watch(vma, false);

	spin_lock(&domain->lock);
	list_del(&vma->ptshare_node);
	first = list_first_entry_or_null(&domain->guests, struct vm_area_struct,
					 ptshare_node);
	borrow = first && vma->vm_file == domain->file &&
		 first->vm_file != domain->file;
	spin_unlock(&domain->lock);
	atomic_long_dec(&ptshare_nr_guests);

	if (borrow)
		ptshare_borrow_file(domain);
	/* Also of the last guest: another one may have found the domain. */
	if (vma->vm_flags & VM_LOCKED)
		ptshare_unlock_pages(domain,
				     ptshare_host_addr(vma, vma->vm_start),
				     ptshare_host_addr(vma, vma->vm_end));
	/*
	 * Where MAP_FIXED replaces a guest, it is still in the tree while the
	 * new file's ->mmap() runs, which may register an mmu notifier.
	 */
	vma->vm_private_data = NULL;
	ptshare_put_domain(domain);
}

static int ptshare_guest_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return IS_ALIGNED(addr, PMD_SIZE) ? 0 : -EINVAL;
}

/* handle_mm_fault() goes to ptshare_fault(), nothing comes here. */
static vm_fault_t ptshare_guest_fault(struct vm_fault *vmf)
{
	WARN_ON_ONCE(1);
	return VM_FAULT_SIGBUS;
}

#ifdef CONFIG_NUMA
/* Pages are allocated by the file's policy, where it keeps one. */
static int ptshare_guest_set_policy(struct vm_area_struct *vma,
				    struct mempolicy *mpol)
{
	const struct vm_operations_struct *vm_ops = vma_ptshare_domain(vma)->vm_ops;

	return vm_ops->set_policy ? vm_ops->set_policy(vma, mpol) : 0;
}

static struct mempolicy *ptshare_guest_get_policy(struct vm_area_struct *vma,
						  unsigned long addr,
						  pgoff_t *ilx)
{
	const struct vm_operations_struct *vm_ops = vma_ptshare_domain(vma)->vm_ops;

	if (vm_ops->get_policy)
		return vm_ops->get_policy(vma, addr, ilx);
	*ilx = 0;
	return vma->vm_policy;
}
#endif

static const struct vm_operations_struct ptshare_guest_ops = {
	.open		= ptshare_guest_open,
	.close		= ptshare_guest_close,
	.may_split	= ptshare_guest_may_split,
	.fault		= ptshare_guest_fault,
#ifdef CONFIG_NUMA
	.set_policy	= ptshare_guest_set_policy,
	.get_policy	= ptshare_guest_get_policy,
#endif
};

/* Files whose pages live in the page cache, in PAGE_SIZE pieces if need be. */
bool ptshare_mapping_ok(struct address_space *mapping)
{
	struct inode *inode = mapping->host;

	return S_ISREG(inode->i_mode) && !IS_DAX(inode) &&
	       (shmem_mapping(mapping) || mapping->a_ops->read_folio);
}

/**
 * ptshare_attach - make a guest of a new VMA
 * @vma: a VMA with VM_SHARED_PT after its file's ->mmap(), not yet in the tree;
 *       its mm's mmap_lock is held for writing
 *
 * Return: 0; -EOPNOTSUPP for memory that is not page cache; -ENOMEM. On error
 * the VMA is as it was, or a guest: vma_close() does what is right.
 */
int ptshare_attach(struct vm_area_struct *vma)
{
	const struct vm_operations_struct *vm_ops = vma->vm_ops;
	struct ptshare_domain *domain;

	if (vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP | VM_HUGETLB))
		return -EOPNOTSUPP;
	if (!vm_ops || !vm_ops->fault || vma->vm_private_data ||
	    !ptshare_mapping_ok(vma->vm_file->f_mapping))
		return -EOPNOTSUPP;

	domain = ptshare_get_domain(vma);
	if (IS_ERR(domain))
		return PTR_ERR(domain);

	/* What ->mmap() opened for this VMA stands open in the host's by now. */
	if (vm_ops->close)
		vm_ops->close(vma);
	vma->vm_ops = &ptshare_guest_ops;
	vma->vm_private_data = domain;
	/*
	 * What the class may ever read or write passes the checks of the
	 * guest's own flags, and meets the host's in ptshare_fault(). Not so
	 * VM_EXEC: security modules take it for a permission given before.
	 */
	vm_flags_set(vma, (domain->class & (VM_MAYREAD | VM_MAYWRITE)) >> 4);
	ptshare_add_guest(domain, vma);
	return vma->vm_flags & VM_LOCKED ? ptshare_lock_pages(vma) : 0;
}

static unsigned long ptshare_host_pages(struct mm_struct *host)
{
	return get_mm_rss(host) + (mm_pgtables_bytes(host) >> PAGE_SHIFT);
}

/* For sysfs: what is held at this moment, by all domains together. */
void ptshare_count(struct ptshare_counts *counts)
{
	struct ptshare_domain *domain;
	unsigned long bytes = 0;
	int bucket;

	mutex_lock(&ptshare_lock);
	counts->domains = ptshare_nr_domains;
	counts->guests = atomic_long_read(&ptshare_nr_guests);
	hash_for_each(ptshare_domains, bucket, domain, node)
		bytes += mm_pgtables_bytes(domain->host);
	mutex_unlock(&ptshare_lock);
	counts->tables = bytes >> PAGE_SHIFT;
}

/**
 * ptshare_oom_pages - what the OOM killer counts for memory under shared tables
 * @mm: the mm of a process; its task is locked, so that this must not sleep
 *
 * Pages and tables of a host, which no process owns. Each guest answers for an
 * equal share, also if it has linked none of them. Swap is not among them: that
 * of a file counts for no process, however it is mapped.
 *
 * Return: a number of pages; 0 if @mm is being changed at this moment.
 */
unsigned long ptshare_oom_pages(struct mm_struct *mm)
{
	unsigned long pages = 0;
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, 0);

	if (likely(!mm_is_ptshare_guest(mm)) || !mmap_read_trylock(mm))
		return 0;
	for_each_vma(vmi, vma) {
		struct ptshare_domain *domain = vma_ptshare_domain(vma);

		if (domain)
			pages += DIV_ROUND_UP(ptshare_host_pages(domain->host),
					      refcount_read(&domain->guests_ref));
	}
	mmap_read_unlock(mm);
	return pages;
}

/* The number of the newest domain there was. */
u64 ptshare_last_id(void)
{
	u64 id;

	mutex_lock(&ptshare_lock);
	id = ptshare_ids;
	mutex_unlock(&ptshare_lock);
	return id;
}

/* The first domain from a number on, with a reference as a guest has it. */
struct ptshare_domain *ptshare_get_domain_from(u64 id)
{
	struct ptshare_domain *domain, *found = NULL;
	int bucket;

	mutex_lock(&ptshare_lock);
	hash_for_each(ptshare_domains, bucket, domain, node) {
		if (domain->id >= id && (!found || domain->id < found->id))
			found = domain;
	}
	if (found)
		refcount_inc(&found->guests_ref);
	mutex_unlock(&ptshare_lock);
	return found;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/mm/ptshare/
 */

#include <linux/kobject.h>
#include <linux/sysfs.h>

#include "ptshare.h"

static ssize_t granule_show(struct kobject *kobj, struct kobj_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%lu\n", PMD_SIZE);
}

#define PTSHARE_COUNT_ATTR(_name)					\
static ssize_t _name##_show(struct kobject *kobj,			\
			    struct kobj_attribute *attr, char *buf)	\
{									\
	struct ptshare_counts counts;					\
									\
	ptshare_count(&counts);						\
	return sysfs_emit(buf, "%lu\n", counts._name);			\
}									\
static struct kobj_attribute _name##_attr = __ATTR_RO(_name)

PTSHARE_COUNT_ATTR(domains);
PTSHARE_COUNT_ATTR(guests);
PTSHARE_COUNT_ATTR(tables);

static ssize_t enabled_show(struct kobject *kobj, struct kobj_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(ptshare_enabled));
}

static ssize_t enabled_store(struct kobject *kobj, struct kobj_attribute *attr,
			     const char *buf, size_t count)
{
	bool enabled;
	int error = kstrtobool(buf, &enabled);

	if (error)
		return error;
	WRITE_ONCE(ptshare_enabled, enabled);
	return count;
}

static struct kobj_attribute granule_attr = __ATTR_RO(granule);
static struct kobj_attribute enabled_attr = __ATTR_RW(enabled);

static struct attribute *ptshare_attrs[] = {
	&granule_attr.attr,
	&domains_attr.attr,
	&guests_attr.attr,
	&tables_attr.attr,
	&enabled_attr.attr,
	NULL,
};

static const struct attribute_group ptshare_attr_group = {
	.name = "ptshare",
	.attrs = ptshare_attrs,
};

static int __init ptshare_init(void)
{
	return sysfs_create_group(mm_kobj, &ptshare_attr_group);
}
subsys_initcall(ptshare_init);

/*
 * qcow2: clusters of metadata that are made in a row
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All functions are called with s->lock held, or with the node drained, in or
 * outside coroutines.
 */

#ifndef BLOCK_QCOW2_VMSTATE_ROW_H
#define BLOCK_QCOW2_VMSTATE_ROW_H

#include "block/block-common.h"
#include "block/graph-lock.h"
#include "qcow2.h"

/* Tables in a row in the file, and their entries in the table above them */
typedef struct Qcow2MetadataRow {
    BlockDriverState *bs;
    int first;              /* index of the first entry */
    int count;              /* of tables, each of which is a cluster */
    int64_t offset;         /* of the first table in the file, in bytes */
} Qcow2MetadataRow;

static inline int64_t qcow2_row_bytes(const Qcow2MetadataRow *row)
{
    BDRVQcow2State *s = row->bs->opaque;

    return (int64_t)row->count << s->cluster_bits;
}

/**
 * qcow2_row_try_alloc: Zeroes for all tables of a row
 *
 * Returns NULL if there is no memory.  To be freed by qemu_vfree().
 */
void GRAPH_RDLOCK *qcow2_row_try_alloc(const Qcow2MetadataRow *row);

/**
 * qcow2_row_write: Write the tables of a row
 *
 * The caller owns them: new ones that nothing refers to, or tables that are in
 * use and nobody writes to meanwhile.
 *
 * @tables: their contents
 *
 * Does not flush.  Returns 0 or -errno.
 */
int GRAPH_RDLOCK qcow2_row_write(const Qcow2MetadataRow *row,
                                 const void *tables, BlkdebugEvent event);

/**
 * qcow2_row_set_entries: Set the entries of a row in memory
 *
 * @table: the table above, in host byte order
 * @flags: of each entry
 */
void qcow2_row_set_entries(const Qcow2MetadataRow *row, uint64_t *table,
                           uint64_t flags);

/**
 * qcow2_row_write_entries: Write the entries of a row as they are in memory
 *
 * @table, @size: the table above, in host byte order, and its number of entries
 * @table_offset: in the file, in bytes
 * @ign: its kind, for qcow2_pre_write_overlap_check()
 *
 * Writes whole sectors, and flushes.  Returns 0, or -errno: then nobody knows
 * what is on disk.
 */
int GRAPH_RDLOCK qcow2_row_write_entries(const Qcow2MetadataRow *row,
                                         const uint64_t *table, int size,
                                         int64_t table_offset, int ign,
                                         BlkdebugEvent event);

/**
 * qcow2_row_forget_cached: Throw out of a cache what it has of a row, unwritten
 */
void qcow2_row_forget_cached(const Qcow2MetadataRow *row, Qcow2Cache *cache);

#endif /* BLOCK_QCOW2_VMSTATE_ROW_H */

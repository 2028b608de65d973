/*
 * HMP commands of snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Main loop thread with the BQL, outside coroutines.
 */

#ifndef MIGRATION_SNAPSHOT_HMP_CMDS_H
#define MIGRATION_SNAPSHOT_HMP_CMDS_H

#include "monitor/monitor.h"

/**
 * snapshot_hmp_save, snapshot_hmp_load: What savevm and loadvm do
 *
 * A monitor on a terminal is suspended until the operation has ended, a line
 * shows the progress, and the other monitors answer meanwhile.  Anywhere else
 * the functions return when the operation has ended, and no monitor answers.
 *
 * @name: of the snapshot; NULL, for a save, to have one made
 */
void snapshot_hmp_save(Monitor *mon, const char *name);
void snapshot_hmp_load(Monitor *mon, const char *name);

#endif /* MIGRATION_SNAPSHOT_HMP_CMDS_H */

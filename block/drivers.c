/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The drivers there are, one a line.
 */
#include "block/driver.h"

void driver_register_all(void)
{
    static const BlockDriver *const all[] = {
        &driver_blkdebug,
        &driver_blklogwrites,
        &driver_blkverify,
        &driver_compress,
        &driver_copy_before_write,
        &driver_copy_on_read,
        &driver_file,
        &driver_host_device,
        &driver_nbd,
        &driver_null_aio,
        &driver_null_co,
        &driver_preallocate,
        &driver_qcow2,
        &driver_quorum,
        &driver_raw,
        &driver_snapshot_access,
#ifdef CONFIG_TEST_DRIVERS
        &driver_simdisk,
#endif
        &driver_throttle,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        driver_register(all[i]);
    }
}

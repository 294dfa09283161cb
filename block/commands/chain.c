/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands that start jobs which merge backing chains or copy disks, and change-backing-file.
 */
#include "block/graph.h"
#include "block/job.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_block_commit(const BlockCommitArg *arg, Error **errp)
{
    return job_commit_start(arg, errp);
}

bool coroutine_fn qmp_block_stream(const BlockStreamArg *arg, Error **errp)
{
    return job_stream_start(arg, errp);
}

bool coroutine_fn qmp_blockdev_mirror(const BlockdevMirrorArg *arg, Error **errp)
{
    return job_mirror_start(arg, errp);
}

bool coroutine_fn qmp_drive_mirror(const DriveMirrorArg *arg, Error **errp)
{
    return job_drive_mirror_start(arg, errp);
}

bool coroutine_fn qmp_change_backing_file(const ChangeBackingFileArg *arg, Error **errp)
{
    return job_change_backing_file(arg->device, arg->image_node_name, arg->backing_file, errp);
}

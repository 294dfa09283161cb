/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing a new image into the file that was made for it.
 *
 * Written like this, in one go, before anybody opens the image: writing it through a node of its own, as other images are made, takes
 * many steps, each of which has to wait for a thread; with many disks that is most of what a snapshot takes.
 */
#include "file-create-internal.h"
#include <errno.h>
#include <unistd.h>

static int write_piece(int fd, const ImagePiece *p)
{
    for (size_t done = 0; done < p->len;) {
        ssize_t ret = pwrite(fd, (uint8_t *)p->data + done, p->len - done, p->offset + done);

        if (ret < 0 && errno != EINTR) {
            return -errno;
        }
        if (ret == 0) {
            return -EIO;
        }
        done += MAX(ret, 0);
    }
    return 0;
}

int file_fill(int fd, const NewImage *image)
{
    int ret = image->size > INT64_MAX ? -EFBIG : ftruncate(fd, image->size) < 0 ? -errno : 0;

    for (guint i = 0; ret == 0 && i < image->pieces->len; i++) {
        ret = write_piece(fd, &g_array_index(image->pieces, ImagePiece, i));
    }
    return ret;
}

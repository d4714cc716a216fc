/* Copyright 2026 the EPA Orchestrator authors
 * See LICENSE file for licensing details.
 *
 * A disk that fails when told to, for LD_PRELOAD: the calls of the C library that change files
 * whose path holds EPA_DISK fail as the file EPA_DISK_ORDERS says, in words:
 *
 *     KIND ERRNO SKIP COUNT
 *
 * KIND is write, sync or cut (ftruncate), or any of them; the first SKIP such calls work, the next
 * COUNT fail with ERRNO (0: a write is short, and the rest of it works or not as ordered next).
 * All calls are counted from the moment at which the orders change; the file EPA_DISK_ORDERS.count
 * has as many bytes as calls were made to fail.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char orders[128];
static long made;

static int ours(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || !getenv("EPA_DISK") || !getenv("EPA_DISK_ORDERS"))
        return 0;
    path[length] = 0;
    return strstr(path, getenv("EPA_DISK")) != NULL;
}

static void count(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.count", getenv("EPA_DISK_ORDERS"));
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0 && write(fd, ".", 1) == 1)
        close(fd);
}

/* -1: let the call be made; else the errno that it fails with, or 0 for a short write. */
static int fault(const char *kind, int fd)
{
    if (!ours(fd))
        return -1;
    pthread_mutex_lock(&lock);
    char now[sizeof orders] = "", wanted[16] = "";
    int error = 0;
    long skip = 0, times = 0;
    int file = open(getenv("EPA_DISK_ORDERS"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, now, sizeof now - 1) < 0)
            now[0] = 0;
        close(file);
    }
    if (strcmp(now, orders)) {
        strcpy(orders, now);
        made = 0;
    }
    int result = -1;
    if (sscanf(now, "%15s %d %ld %ld", wanted, &error, &skip, &times) == 4 &&
        (!strcmp(wanted, kind) || !strcmp(wanted, "any"))) {
        if (made >= skip && made < skip + times) {
            result = error;
            count();
        }
        made++;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(kind)                      \
    int error = fault(kind, fd);        \
    if (error > 0) {                    \
        errno = error;                  \
        return -1;                      \
    }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    FAIL("write")
    return REAL(pwrite64)(fd, data, error == 0 && size > 1 ? size / 2 : size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    FAIL("write")
    return REAL(pwrite)(fd, data, error == 0 && size > 1 ? size / 2 : size, at);
}

ssize_t write(int fd, const void *data, size_t size)
{
    FAIL("write")
    return REAL(write)(fd, data, error == 0 && size > 1 ? size / 2 : size);
}

int fsync(int fd)
{
    FAIL("sync")
    return REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    FAIL("sync")
    return REAL(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t length)
{
    FAIL("cut")
    return REAL(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length)
{
    FAIL("cut")
    return REAL(ftruncate)(fd, length);
}

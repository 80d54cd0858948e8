/* Stands between a process and the system (LD_PRELOAD), and notes what is done to a folder.
 *
 * Every change of a file or a name in the folder is noted in a journal before it is made, with what
 * is needed to undo it, and again when it is made; every sync when it begins and when it is over.
 * disk_shim.py reads the journal: it undoes what no sync has covered, and tells whether a message
 * was confirmed too early. Files are known by device and inode, for a sync may be asked for by
 * another process that was handed the descriptor; a link to each file keeps its inode from being
 * used again. The process may be killed at any call: a note that is not whole is overlooked, which
 * is right, for a change is noted before it is made, and a sync counts from its second note on.
 *
 * It can be told, at any time, to fail a sync or a write, to be full, to sync slowly, or to pretend
 * to.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    WRITE = 1, /* a: offset, b: size before, c: octets; first data: what lay there, second: new */
    CUT,       /* a: size before, b: size after; first data: what is cut off */
    DONE,      /* id: of the change; a: what it returned, or minus errno */
    CREATE,    /* dev, ino: of the folder; a: inode, b: whether it is a folder; data: name */
    REMOVE,    /* dev, ino: of the folder; a: inode, b: whether it is a folder; data: name */
    RENAME,    /* dev, ino: of the old folder; a: inode, b: of the new folder; data: both names */
    SYNC,      /* of a file or folder begins; a: whether it is pretended */
    SEND,      /* to a TCP peer; a: its port, b: own port; first data: what is sent */
};

struct note {
    uint32_t mark, size, kind, pid;
    uint64_t id, dev, ino, a, b, c;
    uint32_t first, second; /* octets of data behind the note; then its size again, inverted */
};

#define MARK 0xA5D15C07u
#define RECORD 1u  /* flag: data that is written and sent goes into the journal */
#define PRETEND 2u /* flag: syncs do nothing */

/* Shared by all processes, and set from outside. */
struct control {
    _Atomic uint64_t ids, syncs, fail_sync_at, writes, fail_write_at;
    _Atomic int64_t room; /* octets that can still be written; negative: no end */
    _Atomic uint64_t flags, sync_delay_us;
};

static struct control *control;
static char folder[PATH_MAX], state[PATH_MAX - 64];
static size_t folder_length;
static int journal = -1, alive = -1;
static struct stat journal_stat;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void give_up(const char *why) {
    dprintf(2, "disk shim: %s: %s\n", why, strerror(errno));
    abort();
}

static int open_high(const char *name, int flags) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", state, name);
    int low = syscall(SYS_openat, AT_FDCWD, path, flags | O_CREAT | O_CLOEXEC, 0600);
    if (low < 0) give_up(path);
    int high = fcntl(low, F_DUPFD_CLOEXEC, 900);
    if (high < 0) give_up("F_DUPFD_CLOEXEC");
    syscall(SYS_close, low);
    return high;
}

static void after_fork(void) { pthread_mutex_init(&lock, NULL); }

__attribute__((constructor)) static void begin(void) {
    const char *data = getenv("AMQPBROKER_SHIM_FOLDER"), *own = getenv("AMQPBROKER_SHIM_STATE");
    if (!data || !own || strlen(own) >= sizeof state || !realpath(data, folder)) return;
    strcpy(state, own);
    folder_length = strlen(folder);
    int fd = open_high("control", O_RDWR);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) give_up("control");
    syscall(SYS_close, fd);
    alive = open_high("alive", O_RDWR);
    if (flock(alive, LOCK_SH)) give_up("alive");
    journal = open_high("journal", O_WRONLY | O_APPEND);
    fstat(journal, &journal_stat);
    pthread_atfork(NULL, NULL, after_fork);
}

/* -- the journal ------------------------------------------------------------------------------ */

static void note(struct note *n, const void *first, const struct iovec *second, int seconds) {
    struct stat now;
    /* Whoever has closed all descriptors has closed ours, and may have another there now. */
    if (fstat(journal, &now) || now.st_ino != journal_stat.st_ino)
        journal = open_high("journal", O_WRONLY | O_APPEND);
    n->mark = MARK;
    n->pid = getpid();
    n->second = 0;
    for (int i = 0; i < seconds; i++) n->second += second[i].iov_len;
    n->size = sizeof *n + n->first + n->second + sizeof(uint32_t);
    char *whole = malloc(n->size), *at = whole;
    if (!whole) give_up("memory");
    at = mempcpy(at, n, sizeof *n);
    if (n->first) at = mempcpy(at, first, n->first);
    for (int i = 0; i < seconds; i++) at = mempcpy(at, second[i].iov_base, second[i].iov_len);
    uint32_t end = ~n->size;
    memcpy(at, &end, sizeof end);
    if (syscall(SYS_write, journal, whole, n->size) != (long)n->size) give_up("journal");
    free(whole);
}

static uint64_t new_id(void) { return atomic_fetch_add(&control->ids, 1) + 1; }

static void done(uint64_t id, int64_t result) {
    struct note n = {.kind = DONE, .id = id, .a = result < 0 ? -(int64_t)errno : result};
    int error = errno;
    note(&n, NULL, NULL, 0);
    errno = error;
}

/* -- what lies in the folder ------------------------------------------------------------------ */

static int is_inside(const char *path) {
    return !strncmp(path, folder, folder_length)
        && (path[folder_length] == '/' || !path[folder_length]);
}

/* The path of a descriptor, if it lies in the folder. */
static int is_ours(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_inside(path);
}

/* The folder in which `path` names something, and the name; 0 if it is not in ours. */
static int locate(int dirfd, const char *path, struct stat *parent, char *name) {
    char whole[PATH_MAX + 2], resolved[PATH_MAX], base[PATH_MAX];
    if (!control) return 0;
    if (path[0] == '/' || dirfd == AT_FDCWD) {
        base[0] = 0;
        if (path[0] != '/' && !getcwd(base, sizeof base)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t size = readlink(link, base, sizeof base - 1);
        if (size < 0) return 0;
        base[size] = 0;
    }
    if (snprintf(whole, sizeof whole, "%s/%s", base, path) >= (int)sizeof whole) return 0;
    size_t length = strlen(whole);
    while (length > 1 && whole[length - 1] == '/') whole[--length] = 0;
    char *slash = strrchr(whole, '/');
    snprintf(name, NAME_MAX + 1, "%.*s", NAME_MAX, slash + 1);
    *slash = 0;
    if (!realpath(whole[0] ? whole : "/", resolved) || !is_inside(resolved)) return 0;
    return !stat(resolved, parent);
}

static void note_name(enum kind kind, uint64_t id, const struct stat *parent, uint64_t ino,
                      uint64_t b, const char *name, const char *second) {
    struct iovec other = {(void *)second, second ? strlen(second) : 0};
    struct note n = {.kind = kind, .id = id, .dev = parent->st_dev, .ino = parent->st_ino,
                     .a = ino, .b = b, .first = strlen(name)};
    note(&n, name, &other, second != NULL);
}

/* What lies in a file from `offset` on. */
static void *read_old(int fd, uint64_t offset, uint32_t octets) {
    char path[64], *old = malloc(octets ? octets : 1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reading = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (!old || reading < 0) give_up("cannot read what is overwritten");
    for (uint32_t at = 0; at < octets;) {
        ssize_t some = pread(reading, old + at, octets - at, offset + at);
        if (some <= 0) give_up("cannot read what is overwritten");
        at += some;
    }
    syscall(SYS_close, reading);
    return old;
}

/* -- files ------------------------------------------------------------------------------------ */

static int open_noted(int dirfd, const char *path, int flags, mode_t mode) {
    struct stat parent, before, now;
    char name[NAME_MAX + 1];
    if (!control || !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE
        || !locate(dirfd, path, &parent, name))
        return syscall(SYS_openat, dirfd, path, flags, mode);
    pthread_mutex_lock(&lock);
    int was_there = !fstatat(dirfd, path, &before, 0);
    int result = syscall(SYS_openat, dirfd, path, flags & ~O_TRUNC, mode);
    int error = errno;
    if (result >= 0 && !was_there && !fstat(result, &now)) {
        char from[64], to[PATH_MAX];
        snprintf(from, sizeof from, "/proc/self/fd/%d", result);
        snprintf(to, sizeof to, "%s/inodes/%lu", state, (unsigned long)now.st_ino);
        linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
        note_name(CREATE, new_id(), &parent, now.st_ino, 0, name, NULL);
    }
    pthread_mutex_unlock(&lock);
    if (result >= 0 && was_there && (flags & O_TRUNC) && ftruncate(result, 0)) {
        error = errno;
        syscall(SYS_close, result);
        result = -1;
    }
    errno = error;
    return result;
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                 \
    int name(const char *path, int flags, ...) {                   \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode_t mode = mode_of(flags, rest);                        \
        va_end(rest);                                              \
        return open_noted(AT_FDCWD, path, flags, mode);            \
    }
#define OPENAT(name)                                               \
    int name(int dirfd, const char *path, int flags, ...) {        \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode_t mode = mode_of(flags, rest);                        \
        va_end(rest);                                              \
        return open_noted(dirfd, path, flags, mode);               \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static void note_send(int fd, const struct iovec *parts, int count, uint64_t *id) {
    struct sockaddr_storage own, peer;
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    *id = 0;
    if (!(control->flags & RECORD) || getsockname(fd, (struct sockaddr *)&own, &own_size)
        || getpeername(fd, (struct sockaddr *)&peer, &peer_size)
        || (peer.ss_family != AF_INET && peer.ss_family != AF_INET6))
        return;
    /* The port lies in the same place in both families. */
    struct note n = {.kind = SEND, .id = *id = new_id(),
                     .a = ntohs(((struct sockaddr_in *)&peer)->sin_port),
                     .b = ntohs(((struct sockaddr_in *)&own)->sin_port)};
    note(&n, NULL, parts, count);
}

typedef ssize_t call(int fd, const struct iovec *parts, int count, int64_t offset);

static ssize_t plain_write(int fd, const struct iovec *parts, int count, int64_t offset) {
    return offset < 0 ? syscall(SYS_writev, fd, parts, count)
                      : syscall(SYS_pwritev, fd, parts, count, offset, 0);
}

/* A write to a file of ours: at `offset`, or where the descriptor stands. */
static ssize_t file_write(int fd, const struct iovec *parts, int count, int64_t offset,
                          const struct stat *now) {
    uint64_t octets = 0;
    for (int i = 0; i < count; i++) octets += parts[i].iov_len;
    uint64_t number = atomic_fetch_add(&control->writes, 1) + 1;
    if (number == control->fail_write_at) {
        errno = EIO;
        return -1;
    }
    struct iovec shorter[count ? count : 1];
    int64_t room = control->room;
    if (room >= 0) {
        if (!room && octets) {
            errno = ENOSPC;
            return -1;
        }
        memcpy(shorter, parts, sizeof *parts * count);
        octets = 0;
        for (int i = 0; i < count; i++) {
            if (octets + shorter[i].iov_len > (uint64_t)room) shorter[i].iov_len = room - octets;
            octets += shorter[i].iov_len;
        }
        parts = shorter;
        atomic_fetch_sub(&control->room, octets);
    }
    uint64_t at = offset >= 0 ? (uint64_t)offset
        : fcntl(fd, F_GETFL) & O_APPEND ? (uint64_t)now->st_size
        : (uint64_t)lseek(fd, 0, SEEK_CUR);
    uint64_t size = now->st_size, end = at + octets < size ? at + octets : size;
    uint32_t covered = at < size ? end - at : 0;
    void *old = covered ? read_old(fd, at, covered) : NULL;
    struct note n = {.kind = WRITE, .id = new_id(), .dev = now->st_dev, .ino = now->st_ino,
                     .a = at, .b = size, .c = octets, .first = covered};
    note(&n, old, parts, control->flags & RECORD ? count : 0);
    free(old);
    ssize_t result = plain_write(fd, parts, count, offset);
    done(n.id, result);
    return result;
}

static ssize_t write_noted(int fd, const struct iovec *parts, int count, int64_t offset) {
    struct stat now;
    char path[PATH_MAX];
    if (!control || fstat(fd, &now)) return plain_write(fd, parts, count, offset);
    ssize_t result;
    if (S_ISSOCK(now.st_mode)) {
        uint64_t id;
        note_send(fd, parts, count, &id);
        result = plain_write(fd, parts, count, offset);
        if (id) done(id, result);
    } else if (S_ISREG(now.st_mode) && is_ours(fd, path)) {
        pthread_mutex_lock(&lock);
        fstat(fd, &now);
        result = file_write(fd, parts, count, offset, &now);
        int error = errno;
        pthread_mutex_unlock(&lock);
        errno = error;
    } else {
        result = plain_write(fd, parts, count, offset);
    }
    return result;
}

ssize_t write(int fd, const void *data, size_t octets) {
    struct iovec part = {(void *)data, octets};
    return write_noted(fd, &part, 1, -1);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return write_noted(fd, parts, count, -1);
}
ssize_t pwrite64(int fd, const void *data, size_t octets, off64_t offset) {
    struct iovec part = {(void *)data, octets};
    return write_noted(fd, &part, 1, offset);
}
ssize_t pwrite(int fd, const void *data, size_t octets, off_t offset) {
    return pwrite64(fd, data, octets, offset);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    char path[PATH_MAX];
    if (flags && control && is_ours(fd, path)) give_up("pwritev2 with flags is not known here");
    if (flags) return REAL(pwritev64v2)(fd, parts, count, offset, flags);
    return write_noted(fd, parts, count, offset);
}

int ftruncate64(int fd, off64_t size) {
    struct stat now;
    char path[PATH_MAX];
    if (!control || fstat(fd, &now) || !S_ISREG(now.st_mode) || !is_ours(fd, path))
        return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    fstat(fd, &now);
    uint32_t cut = size < now.st_size ? now.st_size - size : 0;
    void *old = cut ? read_old(fd, size, cut) : NULL;
    struct note n = {.kind = CUT, .id = new_id(), .dev = now.st_dev, .ino = now.st_ino,
                     .a = now.st_size, .b = size, .first = cut};
    note(&n, old, NULL, 0);
    free(old);
    if (control->room >= 0) atomic_fetch_add(&control->room, cut);
    int result = syscall(SYS_ftruncate, fd, size);
    done(n.id, result);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int truncate64(const char *path, off64_t size) {
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = ftruncate64(fd, size), error = errno;
    syscall(SYS_close, fd);
    errno = error;
    return result;
}
int truncate(const char *path, off_t size) { return truncate64(path, size); }

/* -- syncs ------------------------------------------------------------------------------------ */

static int sync_noted(int fd, long number) {
    struct stat now;
    char path[PATH_MAX];
    if (!control || fstat(fd, &now) || !is_ours(fd, path)) return syscall(number, fd);
    int pretend = (control->flags & PRETEND) != 0;
    struct note n = {.kind = SYNC, .id = new_id(), .dev = now.st_dev, .ino = now.st_ino,
                     .a = pretend};
    uint64_t count = atomic_fetch_add(&control->syncs, 1) + 1;
    note(&n, NULL, NULL, 0);
    if (control->sync_delay_us) usleep(control->sync_delay_us);
    int result = 0;
    if (count == control->fail_sync_at) {
        errno = EIO;
        result = -1;
    } else if (!pretend) {
        result = syscall(number, fd);
    }
    done(n.id, result);
    return result;
}
int fdatasync(int fd) { return sync_noted(fd, SYS_fdatasync); }
int fsync(int fd) { return sync_noted(fd, SYS_fsync); }

/* -- names ------------------------------------------------------------------------------------ */

static int mkdir_noted(int dirfd, const char *path, mode_t mode) {
    struct stat parent, now;
    char name[NAME_MAX + 1];
    int ours = locate(dirfd, path, &parent, name);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_mkdirat, dirfd, path, mode), error = errno;
    if (ours && !result && !fstatat(dirfd, path, &now, 0))
        note_name(CREATE, new_id(), &parent, now.st_ino, 1, name, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdir_noted(AT_FDCWD, path, mode); }
int mkdirat(int dirfd, const char *path, mode_t mode) { return mkdir_noted(dirfd, path, mode); }

static int remove_noted(int dirfd, const char *path, int flags) {
    struct stat parent, now;
    char name[NAME_MAX + 1];
    if (!locate(dirfd, path, &parent, name) || fstatat(dirfd, path, &now, AT_SYMLINK_NOFOLLOW))
        return syscall(SYS_unlinkat, dirfd, path, flags);
    pthread_mutex_lock(&lock);
    uint64_t id = new_id();
    note_name(REMOVE, id, &parent, now.st_ino, S_ISDIR(now.st_mode), name, NULL);
    int result = syscall(SYS_unlinkat, dirfd, path, flags);
    if (!result && control->room >= 0) atomic_fetch_add(&control->room, now.st_size);
    done(id, result);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int unlink(const char *path) { return remove_noted(AT_FDCWD, path, 0); }
int unlinkat(int dirfd, const char *path, int flags) { return remove_noted(dirfd, path, flags); }
int rmdir(const char *path) { return remove_noted(AT_FDCWD, path, AT_REMOVEDIR); }

static int rename_noted(int olddir, const char *old, int newdir, const char *new) {
    struct stat from, to, now;
    char old_name[NAME_MAX + 1], new_name[NAME_MAX + 1];
    int leaves = locate(olddir, old, &from, old_name), comes = locate(newdir, new, &to, new_name);
    if (!leaves && !comes) return syscall(SYS_renameat, olddir, old, newdir, new);
    if (!leaves || !comes) give_up("a file moves into the folder, or out of it");
    if (fstatat(olddir, old, &now, AT_SYMLINK_NOFOLLOW))
        return syscall(SYS_renameat, olddir, old, newdir, new);
    pthread_mutex_lock(&lock);
    uint64_t id = new_id();
    note_name(RENAME, id, &from, now.st_ino, to.st_ino, old_name, new_name);
    int result = syscall(SYS_renameat, olddir, old, newdir, new);
    done(id, result);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int rename(const char *old, const char *new) {
    return rename_noted(AT_FDCWD, old, AT_FDCWD, new);
}
int renameat(int olddir, const char *old, int newdir, const char *new) {
    return rename_noted(olddir, old, newdir, new);
}

/* -- room ------------------------------------------------------------------------------------- */

static void confine(unsigned long frsize, fsblkcnt64_t *free, fsblkcnt64_t *available) {
    if (!control || control->room < 0) return;
    *free = *available = control->room / frsize;
}
int statvfs64(const char *path, struct statvfs64 *result) {
    int status = REAL(statvfs64)(path, result);
    if (!status) confine(result->f_frsize, &result->f_bfree, &result->f_bavail);
    return status;
}
int fstatvfs64(int fd, struct statvfs64 *result) {
    int status = REAL(fstatvfs64)(fd, result);
    if (!status) confine(result->f_frsize, &result->f_bfree, &result->f_bavail);
    return status;
}

/* -- what is sent ----------------------------------------------------------------------------- */

ssize_t sendto(int fd, const void *data, size_t octets, int flags, const struct sockaddr *to,
               socklen_t to_size) {
    struct iovec part = {(void *)data, octets};
    uint64_t id = 0;
    if (control) note_send(fd, &part, 1, &id);
    ssize_t result = syscall(SYS_sendto, fd, data, octets, flags, to, to_size);
    if (id) done(id, result);
    return result;
}
ssize_t send(int fd, const void *data, size_t octets, int flags) {
    return sendto(fd, data, octets, flags, NULL, 0);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    uint64_t id = 0;
    if (control) note_send(fd, message->msg_iov, message->msg_iovlen, &id);
    ssize_t result = syscall(SYS_sendmsg, fd, message, flags);
    if (id) done(id, result);
    return result;
}

/* -- what nobody is to use here --------------------------------------------------------------- */

static void refuse(int fd, const char *name) {
    char path[PATH_MAX];
    if (control && is_ours(fd, path)) give_up(name);
}
int posix_fallocate64(int fd, off64_t offset, off64_t octets) {
    refuse(fd, "posix_fallocate");
    return REAL(posix_fallocate64)(fd, offset, octets);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t octets) {
    refuse(to, "sendfile");
    return REAL(sendfile64)(to, from, offset, octets);
}
ssize_t copy_file_range(int from, off64_t *offset, int to, off64_t *at, size_t octets,
                        unsigned flags) {
    refuse(to, "copy_file_range");
    return REAL(copy_file_range)(from, offset, to, at, octets, flags);
}

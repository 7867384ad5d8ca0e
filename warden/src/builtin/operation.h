/* What every built-in operation needs: its signals, its arguments, its faults, and plain reading and writing.
 * Functions that can fail return 0 or an errno, unless they say otherwise. */
#ifndef OPERATION_H
#define OPERATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* How much is read and written at once. */
#define CHUNK ((size_t)256 * 1024)

/* The first thing an operation does: from now on SIGTERM, SIGINT and SIGHUP end it with EINTR. */
void operation_begin(void);

/* Names on stderr what a fault is about, and returns the fault. */
int blame(const char *path, int error);
int blame_below(const char *path, const char *below, int error);

/* Strict: digits only, and all of them. */
bool parse_decimal(const char *text, uint64_t *value);
bool parse_mode(const char *text, mode_t *mode);
bool parse_flag(const char *text, bool *value);

/* Fills the buffer as far as the input goes. Returns how much there was, or -1. */
ssize_t read_full(int fd, void *buffer, size_t size);
int write_all(int fd, const void *data, size_t size);

/* A file that goes when the operation fails or is ended, until it is kept. There is one at a time.
 * Returns its descriptor, or -1. */
int unfinished_create(int dir, const char *name);
void unfinished_keep(void);
void unfinished_remove(void);

#endif

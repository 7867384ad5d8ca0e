/* Standard output of an operation: buffered, little-endian. When nobody reads it any more, or it can't be written,
 * the operation ends there and then with the errno: none has anything left to do by then. */
#ifndef EMIT_H
#define EMIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

void emit_u8(uint8_t value);
void emit_u32(uint32_t value);
void emit_u64(uint64_t value);
void emit_bytes(const void *data, size_t size);
void emit_zeros(size_t size);
void emit_str(const char *text);

/* For reading into the buffer itself: where, and how much room is there (at least 1). */
void *emit_room(size_t *room);
void emit_added(size_t size);

void emit_flush(void);

/* An entry of the protocol: what `name` in `dir` is (its link target is read there), shown under another name. */
void emit_entry(int dir, const char *name, const struct stat *status, const char *shown);

#endif

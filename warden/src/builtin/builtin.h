/* The warden's own operations: files, directories, archives, watches, connections and the probe. Each runs in a process of
 * its own with the rights of the sandbox's user, so nothing here runs in PID 1. PROTOCOL.md says what each reads
 * and prints. */
#ifndef BUILTIN_H
#define BUILTIN_H

#include <stdbool.h>

/* Gets its argv as of the protocol, its own name first. Reads 0, writes 1, names the path concerned on 2. Returns
 * 0 or an errno, which becomes the exit code. */
typedef int builtin_run(int argc, char **argv);

/* The operation of that name, or NULL. */
builtin_run *builtin_find(const char *name);
/* Whether it may take more of the disk; what removes takes less. */
bool builtin_writes(const char *name);

/* content.c */
builtin_run builtin_read, builtin_write, builtin_append;
/* files.c */
builtin_run builtin_stat, builtin_list, builtin_mkdir, builtin_rename, builtin_remove, builtin_chmod;
/* pack.c, unpack.c, watch.c, dial.c, probe.c */
builtin_run builtin_pack, builtin_unpack, builtin_watch, builtin_dial, builtin_probe;

#endif

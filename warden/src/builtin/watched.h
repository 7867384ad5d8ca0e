/* The directories that are watched: one, or with all below it. Paths are relative to it. */
#ifndef WATCHED_H
#define WATCHED_H

#include <stdbool.h>

/* Begins to watch, or begins again. Returns 0 or an errno. */
int watched_begin(const char *path, bool all_below);
int watched_inotify(void);

/* What went wrong since, or 0. */
int watched_error(void);

/* A directory came, has another name, or isn't below any more. What is in one that came is told of as created. */
void watched_add(const char *path);
void watched_move(const char *from, const char *to);
void watched_drop(const char *path);

#endif

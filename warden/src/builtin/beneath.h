/* Paths below one directory, the root: never out of it, and never through a link. They are taken as `char *` as
 * they are cut in parts for a moment. Functions that return a descriptor return -1 with errno when they fail. */
#ifndef BENEATH_H
#define BENEATH_H

int beneath_begin(const char *path);

/* Turns "./a//b/" into "a/b", and the root itself into "". EXDEV for what begins with "/" or has a "..". */
int beneath_clean(char *path);

/* Opens the directory at a clean path, or the root itself, which is not to be closed. What is missing is made. */
int beneath_open(char *path);

/* The directory that a clean path is in, and its name in there. It is open until another is asked for. */
int beneath_above(char *path, const char **name);

#endif

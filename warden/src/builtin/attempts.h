/* What user code must not be able to do, each tried. */
#ifndef ATTEMPTS_H
#define ATTEMPTS_H

/* Tries them all, one by one, and gives `tell` the name of each with how it went: "ok", the name of an errno or of a
 * signal, or "untried" where no process could be had for it. */
void attempt_all(void (*tell)(const char *name, const char *result));

#endif

/* Events as they come from inotify, and the halves of renames among them. */
#ifndef INOTIFY_QUEUE_H
#define INOTIFY_QUEUE_H

#include <stdint.h>
#include <sys/inotify.h>

/* Reads what there is, behind what was read before. Returns 0 or an errno. */
int inotify_queue_read(int inotify);

/* The next event, or NULL. It is there until more is read. */
const struct inotify_event *inotify_queue_next(void);

/* The second half of a rename whose first was just taken, or NULL when it leads out of what is watched. May read
 * more. */
struct inotify_event *inotify_queue_partner(int inotify, uint32_t cookie);
void inotify_queue_clear(void);

#endif

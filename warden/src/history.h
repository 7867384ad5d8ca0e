/* What the sandbox used in the last hour. */
#ifndef HISTORY_H
#define HISTORY_H

#include "tunnel.h"

/* Takes a sample now and then, whether anybody asks or not. */
void history_begin(void);
/* Says all of them, the oldest first. */
void history_put(struct tunnel *tunnel, uint32_t stream);

#endif

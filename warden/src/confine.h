/* What holds for PID 1 and for all that it starts. */
#ifndef CONFINE_H
#define CONFINE_H

int confine(void);

#endif

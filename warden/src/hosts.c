#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH "/etc/hosts"

/* As Docker writes it for a container that has a network. */
static const char loopback[] = "127.0.0.1\tlocalhost\n"
			       "::1\tlocalhost ip6-localhost ip6-loopback\n"
			       "fe00::0\tip6-localnet\n"
			       "ff00::0\tip6-mcastprefix\n"
			       "ff02::1\tip6-allnodes\n"
			       "ff02::2\tip6-allrouters\n";

/*
 * A container without a network gets an empty file from the engine, in place of the image's: there "localhost" would be
 * nobody. What is no file, has something in it, or can't be written to, is left alone.
 */
void hosts_write(void)
{
	struct stat found;
	int fd = open(PATH, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_size == 0 &&
	    write(fd, loopback, sizeof loopback - 1) < 0)
		dprintf(2, "sandyard-warden: " PATH ": %s\n", strerror(errno));
	close(fd);
}

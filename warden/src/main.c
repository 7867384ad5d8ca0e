/* The warden: PID 1 of a sandbox (init), and the way to it from outside (connect). */
#include <stdio.h>
#include <string.h>

#include "init.h"

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "init") == 0)
		return init_main(argc, argv);
	if (argc == 2 && strcmp(argv[1], "connect") == 0)
		return connect_main();
	dprintf(2, "usage: %s init [--ttl-ms=N] [--idle-ms=N] [--nofile=N] [--own=UID:GID:/PATH ...]\n       %s connect\n",
		argc > 0 ? argv[0] : "warden", argc > 0 ? argv[0] : "warden");
	return 64;
}

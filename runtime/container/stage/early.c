#include "early.h"

#include <string.h>
#include <unistd.h>

// early takes over for the two roles that must not pay for a Go runtime. Priority 101 puts it before libcontainer's own
// constructor (nsenter, default priority); for every other argv[0] it returns at once. glibc passes argc and argv to
// constructors, in static programs too.
__attribute__((constructor(101))) static void early(int argc, char **argv)
{
	if (argc < 1 || argv == 0 || argv[0] == 0)
		return;
	if (strcmp(argv[0], SHOAL_MONITOR) == 0)
		monitor_main(argc, argv);
	else if (strcmp(argv[0], SHOAL_INIT) == 0)
		init_main(argc, argv);
	else
		return;
	_exit(2);
}

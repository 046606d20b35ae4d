#include "early.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// forget_signals undoes what whoever started the agent has left to its children: signals that are ignored (nohup, a shell
// in the background, and posix_spawn, which leaves signal 32 so) or blocked stay so through fork and exec, and would in
// the container. The kernel's calls, because glibc hides 32 and 33; all-zero is SIG_DFL on every architecture.
static void forget_signals(void)
{
	unsigned long act[8] = {0}, none = 0;

	for (int sig = 1; sig <= 64; sig++)
		syscall(SYS_rt_sigaction, sig, act, 0, sizeof(none)); // KILL and STOP refuse
	syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, sizeof(none));
}

// early prepares the two roles that run in Go, and takes over for the two roles that must not pay for a Go runtime. Priority 101 puts it before libcontainer's own
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
	else if (strcmp(argv[0], SHOAL_LAUNCH) == 0 || strcmp(argv[0], SHOAL_EXEC) == 0)
		return forget_signals(); // and on to Go
	else
		return;
	_exit(2);
}

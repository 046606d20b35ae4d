// A container's PID 1 when its spec asks for one: starts the command, hands signals on, reaps orphans, and ends with the
// command's status. The launcher reads its name to learn whether the command was executed: it stays as it is until then.
#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// run executes args, looking through PATH as execvp does, but without its resort to a shell for files of no known format.
static int run(char **args)
{
	const char *path = getenv("PATH");
	if (strchr(args[0], '/') || path == NULL) {
		execv(args[0], args);
		return errno;
	}
	int why = ENOENT;
	while (path) {
		char file[4096];
		const char *end = strchr(path, ':');
		int len = end ? (int)(end - path) : (int)strlen(path);
		if (snprintf(file, sizeof file, "%.*s%s%s", len, path, len ? "/" : "./", args[0]) < (int)sizeof file) {
			execv(file, args);
			if (errno != ENOENT && errno != ENOTDIR)
				why = errno;
		}
		path = end ? end + 1 : NULL;
	}
	return why;
}

static void run_command(char **args, int report)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0);
	if (isatty(0)) {
		signal(SIGTTOU, SIG_IGN); // else taking the terminal from the background stops us
		tcsetpgrp(0, getpgrp());
		signal(SIGTTOU, SIG_DFL);
	}
	int why = run(args);
	if (write(report, &why, sizeof why) < 0)
		_exit(125);
	_exit(why == ENOENT || why == ENOTDIR ? 127 : 126);
}

void init_main(int argc, char **argv)
{
	int p[2];
	if (argc < 2 || pipe2(p, O_CLOEXEC) != 0)
		_exit(125);
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	pid_t child = fork();
	if (child == 0)
		run_command(argv + 1, p[1]);
	if (child < 0)
		_exit(125);
	close(p[1]);
	int why = 0, status = 0;
	if (read(p[0], &why, sizeof why) == sizeof why) {
		waitpid(child, &status, 0);
		dprintf(2, "exec %s: %s\n", argv[1], strerror(why));
		_exit(WEXITSTATUS(status));
	}
	close(p[0]);
	prctl(PR_SET_NAME, "shoal-init:run", 0, 0, 0);
	for (;;) {
		int sig = 0;
		siginfo_t info;
		sig = sigwaitinfo(&all, &info);
		if (sig > 0 && sig != SIGCHLD) {
			kill(child, sig);
			continue;
		}
		for (;;) {
			pid_t gone = waitpid(-1, &status, WNOHANG);
			if (gone <= 0)
				break;
			if (gone == child)
				_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
		}
	}
}

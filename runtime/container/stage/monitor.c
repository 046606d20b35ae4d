// The monitor: what stays of the launcher once the container runs. It takes over in a constructor, before the Go runtime
// starts, so that it costs some tens of KiB. It allocates nothing, has one loop, and talks to nobody: what it has to say
// stands in files. See DESIGN.md, "The monitor".
#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum {
	LINE = 16 << 10,          // a longer line is written in pieces marked P, as CRI asks
	HEAD = 64,                // time, stream and tag of one line, with room to spare
	OUT = LINE + HEAD + 1024, // one write to the log
	DRAIN = 4 << 20,          // bytes read after the exit: somebody outside may hold the pipe and write for ever
	EXIT_SIZE = 256,          // of the exit file, which the launcher made in full so that a full disk cannot lose it
	TTY_PAUSE_MS = 200,       // between looks at a terminal that nobody holds open
	RETRY_SECONDS = 1,        // between attempts to write the exit file
	LEASE_SIGNAL = 40,        // brings a renewal; lease.go has the same number
	STDIN_SIGNAL = 41,        // ends the container's standard input; attach.go has the same number
	READER_MS = 45 * 1000,    // how long an attached reader that takes nothing may hold the container back
	LAST_READER_MS = 5 * 1000, // the same once the container has ended: its exit waits for it
};

struct stream {
	int fd;
	const char *name;
	const char *fifo; // in the container's directory: who reads there is attached
	int reader;       // its writing end, -1 while nobody reads
	bool slow;        // the reader has used up its time: what it does not take at once is dropped for it
	long missed;      // bytes dropped for it, of which it was not told yet
	bool hung;        // a terminal without a user: EIO until it is opened again
	int len;
	char line[LINE];
};

static struct stream out_stream = {-1, "stdout", "attach.out", -1, false, 0, false, 0, {0}};
static struct stream err_stream = {-1, "stderr", "attach.err", -1, false, 0, false, 0, {0}};
static int state_dir = -1;       // the container's directory
static int first_pidfd = -1;     // of its first process
static volatile int stdin_fd = -1; // holds the container's standard input open

static struct {
	int dir;  // the directory of log files
	int fd;   // the current file, -1 when it could not be opened
	long seq; // its name
	long size;
	long max_bytes;
	long max_files;
	long dropped_lines, dropped_bytes; // since the last write that worked
	long lost_lines;                   // in all
	int len, lines;                    // of out
	char out[OUT];
} lg;

static char in[LINE];

static int lease_fd = -1;       // renewals come here; -1: there is no lease
static int lease_timer;         // the kernel's id: when it expires, we are killed
static unsigned long long lease_until;

// lease_arm moves the moment of death; 0 calls it off. Raw system calls: glibc's timers may start a thread.
static bool lease_arm(unsigned long long until)
{
	struct itimerspec at = {{0, 0}, {until / 1000000000, until % 1000000000}};
	return syscall(SYS_timer_settime, lease_timer, TIMER_ABSTIME, &at, NULL) == 0;
}

// lease_begin makes the container's life end with its lease: this process is killed by a timer of its own, also while it is
// stopped, and takes the container's first process along (its death signal). The launcher blocked the signal that brings
// renewals before it executed us.
static bool lease_begin(const char *until)
{
	struct sigevent kill_me;
	memset(&kill_me, 0, sizeof kill_me);
	kill_me.sigev_notify = SIGEV_SIGNAL;
	kill_me.sigev_signo = SIGKILL;
	sigset_t renewals;
	sigemptyset(&renewals);
	sigaddset(&renewals, LEASE_SIGNAL);
	lease_until = strtoull(until, NULL, 10);
	lease_fd = signalfd(-1, &renewals, SFD_NONBLOCK | SFD_CLOEXEC);
	return lease_fd >= 0 && lease_until > 0 && syscall(SYS_timer_create, CLOCK_BOOTTIME, &kill_me, &lease_timer) == 0 &&
	       lease_arm(lease_until);
}

static void lease_renew(void)
{
	struct signalfd_siginfo info;
	while (read(lease_fd, &info, sizeof info) == sizeof info)
		if (info.ssi_ptr > lease_until && lease_arm(info.ssi_ptr))
			lease_until = info.ssi_ptr;
}

// stamp writes the present time as RFC 3339 with nanoseconds, in UTC. gmtime would read files and allocate.
static int stamp(char *to)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	long days = ts.tv_sec / 86400, rest = ts.tv_sec % 86400;
	// Days to a civil date: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
	long z = days + 719468, era = z / 146097, doe = z - era * 146097;
	long yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	long doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	long day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9;
	long year = yoe + era * 400 + (month <= 2);
	return sprintf(to, "%04ld-%02ld-%02ldT%02ld:%02ld:%02ld.%09ldZ", year, month, day, rest / 3600, rest / 60 % 60,
		       rest % 60, ts.tv_nsec);
}

static void open_log(int extra)
{
	char name[32];
	snprintf(name, sizeof name, "%010ld", lg.seq);
	lg.fd = openat(lg.dir, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | extra, 0600);
	struct stat st;
	lg.size = lg.fd >= 0 && fstat(lg.fd, &st) == 0 ? st.st_size : 0;
}

// mend_log cuts off the end of a log that has no newline: a machine that lost its power leaves half a line, or zeros, which
// would take the first line of this start with it.
static void mend_log(void)
{
	char part[4096];
	off_t end = lg.size;
	while (end > 0) {
		int n = end < (off_t)sizeof part ? end : (off_t)sizeof part;
		if (pread(lg.fd, part, n, end - n) != n)
			return;
		int i = n;
		while (i > 0 && part[i - 1] != '\n')
			i--;
		end -= n - i;
		if (i > 0)
			break;
	}
	if (end < lg.size && ftruncate(lg.fd, end) == 0)
		lg.size = end;
}

// rotate goes on in the next file. The oldest goes first: on a full disk that is where room comes from.
static void rotate(void)
{
	char name[32];
	if (lg.fd >= 0)
		close(lg.fd);
	lg.seq++;
	snprintf(name, sizeof name, "%010ld", lg.seq - lg.max_files);
	unlinkat(lg.dir, name, 0);
	open_log(0);
}

// put writes all of it or nothing: a torn line would spoil the next one.
static bool put(const char *data, int len)
{
	if (lg.fd < 0)
		open_log(0);
	if (lg.fd < 0)
		return false;
	int done = 0;
	while (done < len) {
		ssize_t n = write(lg.fd, data + done, len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (done > 0 && ftruncate(lg.fd, lg.size) != 0)
				rotate();
			return false;
		}
		done += n;
	}
	lg.size += len;
	return true;
}

// flush writes what emit collected. When the disk refuses, the container goes on and its lines are counted instead.
static void flush(void)
{
	if (lg.len == 0)
		return;
	bool ok = true;
	if (lg.dropped_lines > 0) {
		char note[HEAD + 128];
		int n = stamp(note);
		n += sprintf(note + n, " stderr F [shoal: %ld lines, %ld bytes of log lost here: the disk was full]\n",
			     lg.dropped_lines, lg.dropped_bytes);
		ok = put(note, n);
		if (ok)
			lg.dropped_lines = lg.dropped_bytes = 0;
	}
	if (!ok || !put(lg.out, lg.len)) {
		lg.dropped_lines += lg.lines;
		lg.dropped_bytes += lg.len;
		lg.lost_lines += lg.lines;
	}
	lg.len = lg.lines = 0;
}

static void emit(struct stream *s, char tag)
{
	if (lg.max_files == 0) { // the log is switched off
		s->len = 0;
		return;
	}
	int need = s->len + HEAD;
	if (lg.len + need > OUT || lg.size + lg.len + need > lg.max_bytes)
		flush();
	if (lg.size > 0 && lg.size + need > lg.max_bytes)
		rotate();
	lg.len += stamp(lg.out + lg.len);
	lg.len += sprintf(lg.out + lg.len, " %s %c ", s->name, tag);
	memcpy(lg.out + lg.len, s->line, s->len);
	lg.len += s->len;
	lg.out[lg.len++] = '\n';
	lg.lines++;
	s->len = 0;
}

static void feed(struct stream *s, const char *data, ssize_t n)
{
	while (n > 0) {
		const char *nl = memchr(data, '\n', n);
		ssize_t piece = nl ? nl - data : n, room = LINE - s->len;
		if (piece > room) {
			piece = room;
			nl = NULL;
		}
		memcpy(s->line + s->len, data, piece);
		s->len += piece;
		data += piece;
		n -= piece;
		if (nl) {
			emit(s, 'F');
			data++;
			n--;
		} else if (s->len == LINE && n > 0) {
			emit(s, 'P'); // n > 0: it does go on, though perhaps only with its newline
		}
	}
}

// await_reader waits until the reader of a stream takes something or is gone; false when its time is up. Leases are renewed
// meanwhile.
static bool await_reader(struct stream *s)
{
	struct timespec from, now;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (bool ended = false;;) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		long passed = (now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000;
		long left = (ended ? LAST_READER_MS : READER_MS) - passed;
		if (left <= 0)
			return false;
		struct pollfd p[3] = {{s->reader, POLLOUT, 0}, {lease_fd, POLLIN, 0}, {ended ? -1 : first_pidfd, POLLIN, 0}};
		if (poll(p, 3, left) < 0 && errno != EINTR)
			return false;
		if (p[1].revents)
			lease_renew();
		if (p[0].revents)
			return true;
		ended = ended || p[2].revents;
	}
}

// pass gives output to whoever is attached. Nobody: it costs the look for a file that is not there.
static void pass(struct stream *s, const char *data, ssize_t n)
{
	char note[128];
	for (int opened = 0; n > 0;) {
		if (s->reader < 0) {
			if (opened++ > 0)
				return;
			s->reader = openat(state_dir, s->fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
			s->slow = false;
			s->missed = 0;
			if (s->reader < 0)
				return;
		}
		bool telling = s->missed > 0;
		ssize_t w = telling ? write(s->reader, note, sprintf(note, "\r\n[shoal: %ld bytes of output were not taken in time; the log has them]\r\n", s->missed))
				    : write(s->reader, data, n);
		if (w > 0 && telling) {
			s->missed = 0;
		} else if (w > 0) {
			data += w;
			n -= w;
			s->slow = false;
		} else if (w < 0 && errno == EAGAIN) {
			if (s->slow || !await_reader(s)) {
				s->slow = true;
				s->missed += n;
				return;
			}
		} else if (w == 0 || errno != EINTR) { // EPIPE: it is gone; another may be there
			close(s->reader);
			s->reader = -1;
		}
	}
}

static void end_stdin(int sig)
{
	(void)sig;
	if (stdin_fd >= 0)
		close(stdin_fd);
	stdin_fd = -1;
}

// pump reads once; false when there is nothing more now.
static bool pump(struct stream *s)
{
	ssize_t n = read(s->fd, in, sizeof in);
	if (n > 0) {
		feed(s, in, n);
		flush();
		pass(s, in, n);
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0 && errno == EIO) {
		s->hung = true;
		return false;
	}
	close(s->fd);
	s->fd = -1;
	return false;
}

static void drain(struct stream *s)
{
	for (long left = DRAIN; s->fd >= 0 && left > 0; left -= LINE)
		if (!pump(s))
			break;
	if (s->len > 0)
		emit(s, 'F');
	flush();
}

// watch copies output until the process behind pidfd ended.
static void watch(int pidfd)
{
	for (;;) {
		bool hung = out_stream.hung || err_stream.hung;
		struct pollfd p[4] = {
			{pidfd, POLLIN, 0},
			{out_stream.hung ? -1 : out_stream.fd, POLLIN, 0},
			{err_stream.hung ? -1 : err_stream.fd, POLLIN, 0},
			{lease_fd, POLLIN, 0},
		};
		if (poll(p, 4, hung ? TTY_PAUSE_MS : -1) < 0 && errno != EINTR)
			sleep(1);
		out_stream.hung = err_stream.hung = false;
		if (p[1].revents)
			pump(&out_stream);
		if (p[2].revents)
			pump(&err_stream);
		if (p[3].revents)
			lease_renew();
		if (p[0].revents)
			return;
	}
}

// oom_kills reads the count out of memory.events (v2) or memory.oom_control (v1); both call it oom_kill.
static long oom_kills(int fd)
{
	char buf[1024];
	ssize_t n = fd < 0 ? -1 : pread(fd, buf, sizeof buf - 1, 0);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	char *at = strstr(buf, "oom_kill ");
	return at ? atol(at + strlen("oom_kill ")) : 0;
}

// report writes the exit file: in place into blocks that exist, then a rename. It tries until it works or the container's
// directory is gone, because this is the only copy of the exit code.
static void report(int dir, int fd, long start, int status, long ooms)
{
	char at[HEAD], text[EXIT_SIZE + 64];
	stamp(at);
	int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	int n = sprintf(text, "{\"start\":%ld,\"code\":%d,\"signal\":%d,\"oomKills\":%ld,\"at\":\"%s\",\"lostLines\":%ld}", start,
			code, WIFSIGNALED(status) ? WTERMSIG(status) : 0, ooms, at, lg.lost_lines);
	memset(text + n, ' ', EXIT_SIZE - n);
	text[EXIT_SIZE - 1] = '\n';
	for (;;) {
		struct stat st;
		if (fstat(dir, &st) == 0 && st.st_nlink == 0)
			return; // removed under us: nobody will ask
		if (pwrite(fd, text, EXIT_SIZE, 0) == EXIT_SIZE && fsync(fd) == 0 &&
		    renameat(dir, "exit.tmp", dir, "exit") == 0) {
			fsync(dir);
			return;
		}
		sleep(RETRY_SECONDS);
	}
}

static void ready(struct stream *s, int fd)
{
	s->fd = fd;
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

// monitor_main's arguments are written by launcher.becomeMonitor:
// 1 id, 2 start number, 3 pid, 4 log max bytes, 5 log max files, 6 log number, then descriptors:
// 7 container dir, 8 log dir, 9 exit file, 10 lock, 11 stdout or terminal, 12 stderr, 13 oom counter, 14 stdin
void monitor_main(int argc, char **argv)
{
	if (argc != 15)
		_exit(2);
	for (int sig = 1; sig < 32; sig++)
		if (sig != SIGCHLD)
			signal(sig, SIG_IGN); // KILL and STOP refuse, all else must not end it
	signal(SIGCHLD, SIG_DFL);
	for (int sig = 0; sig < 3; sig++) // faults keep their meaning
		signal((int[]){SIGSEGV, SIGBUS, SIGABRT}[sig], SIG_DFL);
	stdin_fd = atoi(argv[14]);
	signal(STDIN_SIGNAL, end_stdin); // the launcher blocked it
	sigset_t blocked;
	sigemptyset(&blocked);
	const char *lease = getenv("SHOAL_LEASE");
	if (lease)
		sigaddset(&blocked, LEASE_SIGNAL);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
	if (lease && !lease_begin(lease))
		_exit(3); // and the container with us: it must not run without its lease
	prctl(PR_SET_NAME, "shoal-monitor", 0, 0, 0);
	umask(077);

	long start = atol(argv[2]);
	pid_t pid = atoi(argv[3]);
	lg.max_bytes = atol(argv[4]);
	lg.max_files = atol(argv[5]);
	lg.seq = atol(argv[6]);
	int dir = atoi(argv[7]), exitfd = atoi(argv[9]), lock = atoi(argv[10]), oomfd = atoi(argv[13]);
	lg.dir = atoi(argv[8]);
	open_log(0);
	mend_log();
	// Kernels before 5.11 lose POSIX locks when a process with threads calls exec: take it again.
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	fcntl(lock, F_SETLK, &fl);
	ready(&out_stream, atoi(argv[11]));
	ready(&err_stream, atoi(argv[12]));

	state_dir = dir;

	first_pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (first_pidfd >= 0)
		watch(first_pidfd);
	int status = 0;
	pid_t got;
	do
		got = waitpid(pid, &status, 0);
	while (got < 0 && errno == EINTR);
	if (lease_fd >= 0)
		lease_arm(0);
	drain(&out_stream);
	drain(&err_stream);
	report(dir, exitfd, start, status, oom_kills(oomfd));
	_exit(0);
}

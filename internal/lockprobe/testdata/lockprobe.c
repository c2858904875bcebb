/*
 * lockprobe takes file locks on command: one command per line on standard
 * input, one answer per line on standard output, "ok ..." or "err ERRNO".
 *
 *   open PATH r|w|rw[,creat][,trunc][,append][,cloexec]   -> ok FD
 *   close FD | dup FD | pid | exit
 *   setlk|setlkw|osetlk|osetlkw FD r|w|u START LEN [WHENCE]    (o: F_OFD_*)
 *   getlk|ogetlk FD r|w|u START LEN  -> ok free | ok r|w START LEN PID
 *   flock FD sh|ex|un [nb]
 *   write FD TEXT | pwrite FD OFF TEXT | pread FD OFF N | lseek FD OFF
 *   mmapwrite FD OFF TEXT | mmapread FD OFF N
 *   handler restart|norestart   catch SIGUSR1, with or without SA_RESTART
 *   signals                     -> ok N, how many were caught
 *   fork                        -> ok PID; then "child COMMAND" goes to it
 *   exec                        run the program anew, descriptors kept
 *   count PATH N flock|posix|ofd   add 1 to the number in PATH, N times
 *   rename|link A B | unlink A
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static FILE *child_in, *child_out;
static char **args;

static void on_usr1(int sig) { (void)sig; caught++; }

static void fail(FILE *out) { fprintf(out, "err %s\n", strerrorname_np(errno)); }

static void result(FILE *out, int r) {
	if (r < 0) fail(out);
	else fprintf(out, "ok\n");
}

static int open_flags(char *s) {
	int flags = 0;
	for (char *f = strtok(s, ","); f; f = strtok(NULL, ",")) {
		if (!strcmp(f, "r")) flags |= O_RDONLY;
		else if (!strcmp(f, "w")) flags |= O_WRONLY;
		else if (!strcmp(f, "rw")) flags |= O_RDWR;
		else if (!strcmp(f, "creat")) flags |= O_CREAT;
		else if (!strcmp(f, "trunc")) flags |= O_TRUNC;
		else if (!strcmp(f, "append")) flags |= O_APPEND;
		else if (!strcmp(f, "cloexec")) flags |= O_CLOEXEC;
		else exit(64);
	}
	return flags;
}

static short lock_type(char c) { return c == 'r' ? F_RDLCK : c == 'w' ? F_WRLCK : F_UNLCK; }

static void do_lock(FILE *out, char *cmd, char *rest) {
	int fd, whence = SEEK_SET, ofd = cmd[0] == 'o';
	char type[8];
	long long start, len;
	struct flock fl = {0};
	if (sscanf(rest, "%d %7s %lld %lld %d", &fd, type, &start, &len, &whence) < 4) exit(64);
	fl.l_type = lock_type(type[0]);
	fl.l_whence = whence;
	fl.l_start = start;
	fl.l_len = len;
	if (ofd) cmd++;
	int op = !strcmp(cmd, "setlk") ? (ofd ? F_OFD_SETLK : F_SETLK)
	       : !strcmp(cmd, "setlkw") ? (ofd ? F_OFD_SETLKW : F_SETLKW)
	       : (ofd ? F_OFD_GETLK : F_GETLK);
	if (fcntl(fd, op, &fl) < 0) { fail(out); return; }
	if (strcmp(cmd, "getlk")) { fprintf(out, "ok\n"); return; }
	if (fl.l_type == F_UNLCK) { fprintf(out, "ok free\n"); return; }
	fprintf(out, "ok %c %lld %lld %d\n", fl.l_type == F_RDLCK ? 'r' : 'w',
		(long long)fl.l_start, (long long)fl.l_len, (int)fl.l_pid);
}

static void do_mmap(FILE *out, int write, int fd, long long off, char *text, size_t n) {
	long long page = off & ~4095LL;
	size_t size = off - page + n;
	char *m = mmap(NULL, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, page);
	if (m == MAP_FAILED) { fail(out); return; }
	if (write) {
		memcpy(m + (off - page), text, n);
		result(out, msync(m, size, MS_SYNC));
	} else {
		fprintf(out, "ok %.*s\n", (int)n, m + (off - page));
	}
	munmap(m, size);
}

static int whole(int fd, char *how, int lock) {
	if (!strcmp(how, "flock")) return flock(fd, lock ? LOCK_EX : LOCK_UN);
	struct flock fl = {.l_type = lock ? F_WRLCK : F_UNLCK};
	return fcntl(fd, !strcmp(how, "ofd") ? F_OFD_SETLKW : F_SETLKW, &fl);
}

static void do_count(FILE *out, char *rest) {
	char path[4096], how[16], buf[32];
	int n;
	if (sscanf(rest, "%4095s %d %15s", path, &n, how) != 3) exit(64);
	int fd = open(path, O_RDWR | O_CREAT, 0666);
	if (fd < 0) { fail(out); return; }
	for (int i = 0; i < n; i++) {
		if (whole(fd, how, 1) < 0) { fail(out); return; }
		ssize_t size = pread(fd, buf, sizeof buf - 1, 0);
		buf[size < 0 ? 0 : size] = 0;
		int len = snprintf(buf, sizeof buf, "%ld", strtol(buf, NULL, 10) + 1);
		if (pwrite(fd, buf, len, 0) != len) { fail(out); return; }
		if (whole(fd, how, 0) < 0) { fail(out); return; }
	}
	result(out, close(fd));
}

static void serve(FILE *in, FILE *out);

static void do_fork(FILE *out) {
	int sv[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) { fail(out); return; }
	fflush(out);
	pid_t pid = fork();
	if (pid < 0) { fail(out); return; }
	if (pid == 0) {
		close(sv[0]);
		FILE *in = fdopen(sv[1], "r"), *o = fdopen(dup(sv[1]), "w");
		child_in = child_out = NULL;
		serve(in, o);
		_exit(0);
	}
	close(sv[1]);
	child_in = fdopen(sv[0], "w");
	child_out = fdopen(dup(sv[0]), "r");
	fprintf(out, "ok %d\n", (int)pid);
}

static void do_child(FILE *out, char *rest) {
	char line[8192];
	if (!child_in) exit(64);
	fprintf(child_in, "%s\n", rest);
	fflush(child_in);
	if (!fgets(line, sizeof line, child_out)) {
		fclose(child_in);
		fclose(child_out);
		child_in = child_out = NULL;
		wait(NULL);
		fprintf(out, "ok gone\n");
		return;
	}
	fputs(line, out);
}

static void one(FILE *out, char *line) {
	char cmd[32], a[4096], b[4096];
	int fd;
	long long off, n;
	int used = 0;
	if (sscanf(line, "%31s %n", cmd, &used) < 1) return;
	char *rest = line + used;
	if (!strcmp(cmd, "open")) {
		if (sscanf(rest, "%4095s %4095s", a, b) != 2) exit(64);
		fd = open(a, open_flags(b), 0666);
		if (fd < 0) fail(out);
		else fprintf(out, "ok %d\n", fd);
	} else if (!strcmp(cmd, "close")) {
		result(out, close(atoi(rest)));
	} else if (!strcmp(cmd, "dup")) {
		fd = dup(atoi(rest));
		if (fd < 0) fail(out);
		else fprintf(out, "ok %d\n", fd);
	} else if (!strcmp(cmd, "pid")) {
		fprintf(out, "ok %d\n", (int)getpid());
	} else if (!strcmp(cmd, "exit")) {
		exit(0);
	} else if (strstr(cmd, "lk")) {
		do_lock(out, cmd, rest);
	} else if (!strcmp(cmd, "flock")) {
		b[0] = 0;
		if (sscanf(rest, "%d %4095s %4095s", &fd, a, b) < 2) exit(64);
		int op = !strcmp(a, "sh") ? LOCK_SH : !strcmp(a, "ex") ? LOCK_EX : LOCK_UN;
		result(out, flock(fd, op | (b[0] ? LOCK_NB : 0)));
	} else if (!strcmp(cmd, "write")) {
		if (sscanf(rest, "%d %4095s", &fd, a) != 2) exit(64);
		result(out, write(fd, a, strlen(a)));
	} else if (!strcmp(cmd, "pwrite")) {
		if (sscanf(rest, "%d %lld %4095s", &fd, &off, a) != 3) exit(64);
		result(out, pwrite(fd, a, strlen(a), off));
	} else if (!strcmp(cmd, "pread")) {
		if (sscanf(rest, "%d %lld %lld", &fd, &off, &n) != 3 || n >= (long long)sizeof a) exit(64);
		ssize_t size = pread(fd, a, n, off);
		if (size < 0) fail(out);
		else fprintf(out, "ok %.*s\n", (int)size, a);
	} else if (!strcmp(cmd, "lseek")) {
		if (sscanf(rest, "%d %lld", &fd, &off) != 2) exit(64);
		result(out, lseek(fd, off, SEEK_SET) < 0 ? -1 : 0);
	} else if (!strcmp(cmd, "mmapwrite")) {
		if (sscanf(rest, "%d %lld %4095s", &fd, &off, a) != 3) exit(64);
		do_mmap(out, 1, fd, off, a, strlen(a));
	} else if (!strcmp(cmd, "mmapread")) {
		if (sscanf(rest, "%d %lld %lld", &fd, &off, &n) != 3) exit(64);
		do_mmap(out, 0, fd, off, NULL, n);
	} else if (!strcmp(cmd, "handler")) {
		struct sigaction sa = {.sa_handler = on_usr1};
		if (!strncmp(rest, "restart", 7)) sa.sa_flags = SA_RESTART;
		result(out, sigaction(SIGUSR1, &sa, NULL));
	} else if (!strcmp(cmd, "signals")) {
		fprintf(out, "ok %d\n", (int)caught);
	} else if (!strcmp(cmd, "fork")) {
		do_fork(out);
	} else if (!strcmp(cmd, "child")) {
		do_child(out, rest);
	} else if (!strcmp(cmd, "exec")) {
		fprintf(out, "ok\n");
		fflush(out);
		execv("/proc/self/exe", args);
		exit(65);
	} else if (!strcmp(cmd, "count")) {
		do_count(out, rest);
	} else if (!strcmp(cmd, "rename") || !strcmp(cmd, "link")) {
		if (sscanf(rest, "%4095s %4095s", a, b) != 2) exit(64);
		result(out, cmd[0] == 'r' ? rename(a, b) : link(a, b));
	} else if (!strcmp(cmd, "unlink")) {
		if (sscanf(rest, "%4095s", a) != 1) exit(64);
		result(out, unlink(a));
	} else {
		fprintf(stderr, "lockprobe: unknown command: %s\n", line);
		exit(64);
	}
}

static void serve(FILE *in, FILE *out) {
	char line[8192];
	setvbuf(in, NULL, _IONBF, 0); /* exec must not lose lines that were read ahead */
	for (;;) {
		if (!fgets(line, sizeof line, in)) {
			if (ferror(in) && errno == EINTR) { clearerr(in); continue; }
			return;
		}
		line[strcspn(line, "\n")] = 0;
		one(out, line);
		fflush(out);
	}
}

int main(int argc, char **argv) {
	(void)argc;
	args = argv;
	serve(stdin, stdout);
	return 0;
}

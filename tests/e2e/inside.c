/* inside.c - makes a running process try a system call, from the inside: what its sandbox answers is
 * what it would answer to whoever takes the process over.
 *
 *   e2e-inside PID     reads calls, one a line: NUMBER [ARGUMENT]...
 *                      an argument is a number, s:TEXT or x:HEX (a pointer to that)
 *
 * Prints a line for each: what it returned (-errno), or "killed SIGNAL" and ends. The process is stopped where it waits in a system call, borrowed for one instruction, and goes on as if
 * nothing had been. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __x86_64__

#define TRIES 2000
#define ROOM 4096 /* below the stack pointer and its red zone */
#define RED_ZONE 512

static char room[ROOM];
static size_t used;

static void
give_up(const char *what)
{
	fprintf(stderr, "e2e-inside: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
put(const void *data, size_t len)
{
	if (used + len > sizeof(room)) {
		errno = E2BIG;
		give_up("arguments");
	}
	memcpy(room + used, data, len);
	used += len;
}

/* Gives the argument's value; what it points to is put into the room, which will stand at `base`. */
static uint64_t
argument(const char *text, uint64_t base)
{
	uint64_t at = base + used;
	unsigned byte;

	if (strncmp(text, "s:", 2) == 0) {
		put(text + 2, strlen(text + 2) + 1);
	} else if (strncmp(text, "x:", 2) == 0) {
		for (const char *hex = text + 2; sscanf(hex, "%2x", &byte) == 1; hex += 2)
			put(&(char){ (char)byte }, 1);
	} else {
		return strtoull(text, NULL, 0);
	}
	used = (used + 15) & ~(size_t)15; /* structures want to be aligned */
	return at;
}

/* Stops it inside a system call, that is just behind a `syscall` instruction. */
static bool
stop(pid_t pid, struct user_regs_struct *regs)
{
	int status;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
		give_up("PTRACE_SEIZE");
	if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0 || waitpid(pid, &status, __WALL) != pid)
		give_up("PTRACE_INTERRUPT");
	if (WIFSTOPPED(status) && ptrace(PTRACE_GETREGS, pid, NULL, regs) == 0 &&
	    (ptrace(PTRACE_PEEKTEXT, pid, (void *)(regs->rip - 2), NULL) & 0xffff) == 0x050f)
		return true;
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return false;
}

static void
prepare(struct user_regs_struct *regs, char **words, int n)
{
	uint64_t base = (regs->rsp - RED_ZONE - ROOM) & ~(uint64_t)63, value[6] = { 0 };

	for (int i = 1; i < n; i++)
		value[i - 1] = argument(words[i], base);
	regs->rax = strtoull(words[0], NULL, 0);
	regs->orig_rax = ~0ULL; /* nothing is to be restarted */
	regs->rip -= 2;
	regs->rdi = value[0];
	regs->rsi = value[1];
	regs->rdx = value[2];
	regs->r10 = value[3];
	regs->r8 = value[4];
	regs->r9 = value[5];
	regs->rsp = base; /* for a child that starts on our stack */
}

static void
fill_room(pid_t pid, uint64_t at)
{
	struct iovec from = { room, sizeof(room) }, to = { (void *)at, sizeof(room) };

	if (process_vm_writev(pid, &from, 1, &to, 1, 0) != (ssize_t)sizeof(room))
		give_up("process_vm_writev");
}

static void
try(pid_t pid, const struct user_regs_struct *before, char **words, int n)
{
	struct user_regs_struct regs = *before;
	int status;

	prepare(&regs, words, n);
	fill_room(pid, regs.rsp);
	if (ptrace(PTRACE_SETREGS, pid, NULL, &regs) < 0 ||
	    ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
		give_up("PTRACE_SINGLESTEP");
	if (waitpid(pid, &status, __WALL) != pid)
		give_up("waitpid");
	if (!WIFSTOPPED(status)) {
		printf("killed %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
		exit(0);
	}
	if (ptrace(PTRACE_GETREGS, pid, NULL, &regs) < 0 ||
	    ptrace(PTRACE_SETREGS, pid, NULL, before) < 0)
		give_up("PTRACE_SETREGS");
	if (ptrace(PTRACE_DETACH, pid, NULL, NULL) < 0)
		give_up("PTRACE_DETACH");
	printf("%lld\n", (long long)regs.rax);
}

static void
try_when_it_waits(pid_t pid, char **words, int n)
{
	struct user_regs_struct regs;

	for (int i = 0; i < TRIES; i++) {
		if (stop(pid, &regs)) {
			try(pid, &regs, words, n);
			return;
		}
		usleep(500);
	}
	fprintf(stderr, "e2e-inside: %d never waits in a system call\n", (int)pid);
	exit(1);
}

int
main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? (pid_t)atoi(argv[1]) : 0;
	char line[2 * ROOM], *words[7];

	if (pid <= 0) {
		fprintf(stderr, "usage: %s PID <calls\n", argv[0]);
		return 2;
	}
	while (fgets(line, sizeof(line), stdin) != NULL) {
		int n = 0;

		for (char *word = strtok(line, " \n"); word != NULL && n < 7;
		     word = strtok(NULL, " \n"))
			words[n++] = word;
		used = 0;
		if (n > 0)
			try_when_it_waits(pid, words, n);
	}
	return 0;
}

#else

int
main(void)
{
	fprintf(stderr, "e2e-inside: knows the registers of x86-64 only\n");
	return 77;
}

#endif

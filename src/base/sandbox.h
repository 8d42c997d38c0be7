/* sandbox.h - a worker gives up what it does not need: system calls (seccomp, by libseccomp), files,
 * ports and signals (Landlock, by its system calls). Entered once, after the config is read and
 * before threads are started: both are inherited by threads made later. Nothing may be made
 * executable afterwards, so what dlopen() brings (NSS, OpenSSL's providers, iconv) has to be warm
 * before.
 *
 * What the kernel does not offer is not an error: the worker runs without it and logs one line.
 * A forbidden system call fails with EPERM and leaves an audit line; with RELAYD_SANDBOX=kill in
 * the environment (tests) it ends the process, with RELAYD_SANDBOX=off nothing is entered. */
#ifndef RELAYD_BASE_SANDBOX_H
#define RELAYD_BASE_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

enum sandbox_profile { SANDBOX_INTAKE, SANDBOX_DELIVERY };

enum sandbox_access {
	SANDBOX_READ,  /* open by name */
	SANDBOX_LIST,  /* and find out names */
	SANDBOX_WRITE, /* and create, write, rename, remove; no sockets, devices or links */
};

/* What may be reached by name below `path` (a directory or a file; one that does not exist is left
 * out). A NULL path is passed over. */
struct sandbox_path {
	const char *path;
	enum sandbox_access access;
};

struct sandbox_options {
	enum sandbox_profile profile;
	const struct sandbox_path *paths;
	size_t n_paths;
	int writable_fd; /* a directory that is open already: as SANDBOX_WRITE, whatever stands at its
	                    name by now; 0: none */
	const uint16_t *ports; /* of other hosts (TCP), for a profile that may connect at all */
	size_t n_ports;
};

#define SANDBOX_WHY_MAX 256

/* Enters. Returns true if all of it holds; else false and *why says in words what is missing (for
 * one log line sandbox.limited). Without memory or descriptors it ends the process, as xcalloc()
 * does. */
bool sandbox_enter(const struct sandbox_options *options, char why[SANDBOX_WHY_MAX]) MUST_CHECK;

#endif

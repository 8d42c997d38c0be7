/* model_server.h - the SMTP server once more, the slow and simple way: it has the whole input before it,
 * walks through it once, and keeps nothing between two bytes. It shares no code with src/smtp. What it
 * says (replies, messages) is what the session must say, in whatever pieces the bytes come.
 *
 * Written from durability rules D1-D11 and B1-B7 and the RFCs, not from the code; where both differ one
 * of them is wrong. */
#ifndef RELAYD_TESTS_MODEL_SERVER_H
#define RELAYD_TESTS_MODEL_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum { MODEL_RECIPIENTS = 5, MODEL_CODES = 4, MODEL_TEXT = 600 };

struct model_options {
	const char *hostname;
	uint64_t max_message;
	unsigned max_recipients, max_errors, max_commands, max_received;
	bool auth_ignore, nul_space, reject_bare;
	bool is_early;    /* the client does not wait for the greeting */
	bool never_waits; /* ... for nothing that comes after it (D10) */
	/* What the caller of the session refuses: the n-th message at its BEGIN (bit n mod 4), the n-th
	 * at its COMMIT (0: not, 1: 451, 2: 452; bits 2 n mod 8), a body over so many bytes. */
	uint8_t refused_begins, refused_commits;
	size_t body_most; /* 0: any */
};

/* The reply's code: one of these (of two things that are wrong with a message the session tells the one
 * that it meets first, and that hangs on the pieces). */
struct model_reply {
	int codes[MODEL_CODES];
	unsigned n_codes;
};

struct model_text {
	char bytes[MODEL_TEXT];
	size_t len;
};

struct model_recipient {
	struct model_text address, orcpt;
	unsigned notify;
};

struct model_message {
	struct model_text sender, envid;
	struct model_recipient recipients[MODEL_RECIPIENTS];
	unsigned n_recipients;
	uint64_t declared;
	char body, ret; /* '7', '8', 0; 'F', 'H', 0 */
	bool smtputf8;
	char *content; /* as it is to be stored */
	size_t len;
	bool has_8bit;
	unsigned received, own; /* Received lines; those of this host */
};

struct model {
	struct model_reply *replies;
	size_t n_replies;
	struct model_message *messages; /* those that came to their COMMIT */
	size_t n_messages;
	size_t *waits; /* offsets in the input where a well-behaved client waits for a reply */
	size_t n_waits;
	bool closed;
	/* Only so much of the input is to be given: behind it lies a line about whose length two opinions
	 * are possible (the session counts what it skips in the pieces that it gets). */
	size_t sure;
};

/* Gives *out; model_fini() frees it. */
void model_server(const struct model_options *options, struct span in, struct model *out);
void model_fini(struct model *m);

/* What BEGIN and COMMIT of the n-th message are answered with; 0: nothing, go on. */
int model_begin_refusal(const struct model_options *options, size_t n);
int model_commit_refusal(const struct model_options *options, size_t n);

#endif

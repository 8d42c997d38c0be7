/* catalog_parts.h - what the three files of the catalog share, and nobody else: catalog.c (what is read when, and
 * what follows when all is read), catalog_segment.c (one segment, up to the messages in it), catalog_large.c
 * (bodies in large/). */
#ifndef RELAYD_SPOOL_CATALOG_PARTS_H
#define RELAYD_SPOOL_CATALOG_PARTS_H

#include "spool/catalog.h"

/* A file in large/ that nobody held open before the replay began. */
struct catalog_large_file {
	uint64_t id;
	bool is_named; /* by a message that is not done */
};

/* A segment that is being read. */
struct catalog_followed {
	uint32_t number;
	uint64_t sealed_bytes; /* its writer has said so, and will not write on; 0: not yet */
	struct spool_reader *reader;
	bool reader_to_end;
	uint64_t begin; /* messages before it were given */
	uint64_t told;  /* damage before it was told: later than its neighbours, perhaps */
	uint64_t given; /* messages */
	bool is_past;   /* it was there at the start, and what it had then is not all read */
};

struct catalog {
	struct catalog_options options;
	struct spool_store *store, *own_store;
	struct catalog_summary sum;
	/* until the past is read: */
	struct journal_index *index;
	struct catalog_followed *past; /* in the order in which they are read */
	size_t n_past, next_past;
	struct catalog_large_file *large;
	size_t n_large;
	int large_dir;
	bool is_unsure;     /* a REVOKE may have been unreadable */
	bool is_unreadable; /* there is more on the disk than could be read */
	bool is_read;
	/* what is being written: */
	struct catalog_followed *live;
	size_t n_live;
	uint32_t *known; /* ascending: read to their end, or in one of the lists */
	size_t n_known;
	uint64_t scan_ms; /* when the directory is looked at again */
};

/* What one step may do yet. */
struct catalog_budget {
	unsigned messages;
	uint64_t bytes;
};

/* catalog_segment.c */
void catalog_segment_note_damage(
    struct catalog *c, const struct spool_damage *damage, bool is_whole);
int catalog_segment_note_revokes(struct catalog *c) MUST_CHECK;
bool catalog_segment_look(
    struct catalog *c, struct catalog_followed *l, uint64_t *limit, enum shared_slot_state *state);
int catalog_segment_follow(struct catalog *c, struct catalog_followed *l,
    struct catalog_budget *budget, bool *ended) MUST_CHECK;

/* catalog_large.c */
void catalog_large_sample(struct catalog *c);
void catalog_large_check(struct catalog *c, const struct envelope *e);
void catalog_large_sweep(struct catalog *c);
void catalog_large_fini(struct catalog *c);

#endif

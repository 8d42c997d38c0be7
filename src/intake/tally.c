/* tally.c - see tally.h. Bounded by the number of connections: a client without one has no entry. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "intake/tally.h"

struct tally_key {
	uint8_t address[16];
	uint32_t uid;
	uint32_t family;
};

struct tally {
	struct tally_key key;
	unsigned count;
	UT_hash_handle hh;
};

static struct tally_key
key_of(const struct peer *peer)
{
	struct tally_key key = { .uid = peer->uid };

	if (peer->uid == PEER_UID_UNKNOWN) {
		key.family = peer->family;
		memcpy(key.address, peer->address, sizeof(key.address));
	}
	return key;
}

unsigned
tally_add(struct tally **tally, const struct peer *peer)
{
	const struct tally_key key = key_of(peer);
	struct tally *client;

	HASH_FIND(hh, *tally, &key, sizeof(key), client);
	if (client == NULL) {
		client = xcalloc(1, sizeof(*client));
		client->key = key;
		HASH_ADD(hh, *tally, key, sizeof(client->key), client);
	}
	return ++client->count;
}

void
tally_drop(struct tally **tally, const struct peer *peer)
{
	const struct tally_key key = key_of(peer);
	struct tally *client;

	HASH_FIND(hh, *tally, &key, sizeof(key), client);
	assert(client != NULL && client->count > 0);
	if (--client->count > 0)
		return;
	HASH_DEL(*tally, client);
	free(client);
}

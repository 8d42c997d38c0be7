/* hash.h - uthash, with a hash function that compiles without warnings: its default one falls through
 * the labels of a switch, in every file that uses it. And without memory it ends as xcalloc() does: its
 * own way is exit(-1), without a word. */
#ifndef RELAYD_BASE_HASH_H
#define RELAYD_BASE_HASH_H

#include "base/base.h"

#define HASH_FUNCTION(key, len, hash) HASH_OAT(key, len, hash)
#define uthash_malloc(size_bytes) xcalloc(size_bytes, 1)
#include <uthash.h>

#endif

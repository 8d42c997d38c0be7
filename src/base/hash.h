/* hash.h - uthash, with a hash function that compiles without warnings: its default one falls through
 * the labels of a switch, in every file that uses it. */
#ifndef RELAYD_BASE_HASH_H
#define RELAYD_BASE_HASH_H

#define HASH_FUNCTION(key, len, hash) HASH_OAT(key, len, hash)
#include <uthash.h>

#endif

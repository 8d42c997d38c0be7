EXTRA_DIST += contrib/install-deps

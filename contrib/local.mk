EXTRA_DIST += contrib/install-deps contrib/demo-provider contrib/check .ci/run

EXTRA_DIST += contrib/install-deps contrib/demo-provider contrib/quickstart contrib/check contrib/soak .ci/run

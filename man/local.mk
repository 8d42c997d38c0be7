dist_man_MANS += man/relayd.8 man/relayctl.1

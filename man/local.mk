dist_man_MANS += man/relayd.8 man/relayctl.1
dist_man_MANS += man/relayd.conf.5 man/relayd-log.7 man/relayd-spool.5
dist_man_MANS += man/relayd-sendmail.1

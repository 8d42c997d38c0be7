include tests/unit/delivery.mk
include tests/unit/intake.mk
include tests/unit/base.mk
include tests/unit/spool.mk
include tests/unit/supervisor.mk
include tests/unit/smtp-client.mk
include tests/unit/smtp_server.mk

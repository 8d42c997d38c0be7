include tests/unit/delivery.mk
include tests/unit/intake.mk

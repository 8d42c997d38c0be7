include tests/unit/delivery.mk

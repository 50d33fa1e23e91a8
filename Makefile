# migrate_tiers: build, install, demo, test, bench, lint, format.

EXTENSION   = migrate_tiers
EXTVERSION  = 1.0
MODULE_big  = migrate_tiers
OBJS        = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
LOCAL_INCLUDES = $(wildcard src/*/*.h)
DATA_built  = $(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = results regression.diffs regression.out output_iso tmp_check log

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
PG_CFLAGS   = -std=gnu99 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
              -Wno-missing-field-initializers -Werror -fvisibility=hidden
SHLIB_LINK  = $(libpq)

PG_CONFIG  ?= pg_config
PGXS       := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(EXTENSION)--$(EXTVERSION).sql: $(sort $(wildcard src/sql/*.sql))
	cat $^ > $@

$(OBJS): $(LOCAL_INCLUDES)

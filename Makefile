# migrate_tiers: build, install, demo, test, bench, lint, format.
#
#   make && sudo make install        the extension, for the PostgreSQL of pg_config
#   make demo | make test            install what they need, then run (README.md)
#   make install PG_CONFIG=/path/to/pg_config
#
# The targets in the first half work where PostgreSQL is not installed yet.

PG_CONFIG ?= pg_config
export PG_CONFIG

default: all

# What is in the second half needs PGXS; without it, say how to get it.
OWN_TARGETS = demo test bench lint format setup
.PHONY: default $(OWN_TARGETS)

setup:
	test/setup

demo: setup
	test/run build
	test/demo/run

test: setup
	test/run

bench:
	test/setup pgcopydb valgrind
	test/run build
	bench/run

lint: setup
	test/run lint

format:
	test/lint --format

ifneq (,$(filter-out $(OWN_TARGETS),$(or $(MAKECMDGOALS),all)))

EXTENSION   = migrate_tiers
EXTVERSION  = 1.0
MODULE_big  = migrate_tiers
OBJS        = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
LOCAL_INCLUDES = $(wildcard src/*/*.h)
DATA_built  = $(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = results regression.diffs regression.out output_iso tmp_check log .built_for

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
PG_CFLAGS   = -std=gnu99 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
              -Wno-missing-field-initializers -Werror -fvisibility=hidden
SHLIB_LINK  = $(libpq)

# installcheck runs the regression files on a server that is there already
# (PGHOST, PGPORT, PGUSER say which); make test brings its own.
REGRESS = $(patsubst sql/%.sql,%,$(wildcard sql/setup.sql) \
          $(filter-out sql/setup.sql,$(sort $(wildcard sql/*.sql))))

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) not found: run "make setup" to install what is missing, or give PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)
CONTRIB_TESTDB = mt_regress

$(EXTENSION)--$(EXTVERSION).sql: $(sort $(wildcard src/sql/*.sql))
	cat $^ > $@

# Objects for another PostgreSQL are no use: a change of PG_CONFIG builds anew,
# and so does one of COPT (test/run has a sanitizer in it).
BUILT_FOR := $(VERSION) $(includedir_server) $(COPT)
$(shell echo '$(BUILT_FOR)' | cmp -s - .built_for || echo '$(BUILT_FOR)' >.built_for)

$(OBJS): $(LOCAL_INCLUDES) .built_for

endif

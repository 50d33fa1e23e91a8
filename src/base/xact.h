/*
 * xact.h
 *	  Transactions of a worker: each with an active snapshot, which SPI wants.
 */
#ifndef MT_XACT_H
#define MT_XACT_H

#include "base/compat.h"

extern void mt_xact_begin(void);
extern void mt_xact_commit(void);

#endif							/* MT_XACT_H */

/*
 * applying.c
 *	  Whether this backend writes what came from the target: see applying.h.
 */
#include "catalog/applying.h"

bool		mt_capture_applying = false;
bool		mt_fence_pass = false;

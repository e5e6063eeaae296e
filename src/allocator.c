/* The options of jemalloc (jemalloc(3), "TUNING"). It has a weak symbol of this name, which this one replaces.
 *
 * Freed pages are unmapped after a second, and those of large blocks at once: they must not add to the memory in flight. One
 * arena, since each keeps freed pages of its own. madvise(2) does not give back what mlockall(2) locked. */
const char *_rjem_malloc_conf =
    "narenas:1,retain:false,dirty_decay_ms:1000,muzzy_decay_ms:0,oversize_threshold:262144,background_thread:true";

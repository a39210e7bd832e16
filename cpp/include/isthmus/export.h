#pragma once

/// ISTHMUS_API marks the symbols that libisthmus exports. All other symbols are hidden.
#if defined(ISTHMUS_STATIC)
#define ISTHMUS_API
#else
#define ISTHMUS_API __attribute__((visibility("default")))
#endif

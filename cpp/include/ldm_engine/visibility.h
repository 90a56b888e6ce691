/* What the shared library shows to others; everything else in it is hidden. */
#ifndef LDM_ENGINE_VISIBILITY_H
#define LDM_ENGINE_VISIBILITY_H

#define LDM_ENGINE_API __attribute__((visibility("default")))

#endif

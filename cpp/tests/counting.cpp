// Counts what a thread allocates, whichever way: every way goes through malloc.
#include "counting.hpp"

#include <cerrno>
#include <cstddef>

namespace {

thread_local bool is_counting = false;
thread_local std::size_t counted = 0;

}  // namespace

void count_allocations(bool counting) { is_counting = counting; }

std::size_t allocations_counted() { return counted; }

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LDM_ENGINE_OWN_MALLOC
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define LDM_ENGINE_OWN_MALLOC
#endif

#ifdef LDM_ENGINE_OWN_MALLOC

bool can_count_allocations() { return false; }

#else

bool can_count_allocations() { return true; }

// glibc's own names for what is replaced here.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  counted += is_counting;
  return __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) {
  counted += is_counting;
  return __libc_calloc(count, size);
}

void* realloc(void* old, std::size_t size) {
  counted += is_counting;
  return __libc_realloc(old, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) {
  counted += is_counting;
  return __libc_memalign(alignment, size);
}

void* memalign(std::size_t alignment, std::size_t size) { return aligned_alloc(alignment, size); }

int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  *out = aligned_alloc(alignment, size);
  return *out ? 0 : ENOMEM;
}
}

#endif

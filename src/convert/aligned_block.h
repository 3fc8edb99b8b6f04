// Memory that O_DIRECT reads to and writes from.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace minimo {

inline constexpr int64_t kBlockAlignment = 4096;  // of addresses, sizes and offsets that O_DIRECT takes

struct AlignedBlock {
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data;
  size_t size = 0;  // of what is filled in

  // Not cleared; `bytes` is a multiple of kBlockAlignment. In huge pages where there are any: few segments a request.
  static AlignedBlock Make(size_t bytes) {
    AlignedBlock block;
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    block.data.reset(static_cast<std::byte*>(std::aligned_alloc(kHugePage, whole)));
    (void)madvise(block.data.get(), whole, MADV_HUGEPAGE);
    return block;
  }
};

}  // namespace minimo

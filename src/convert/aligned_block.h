// Memory that O_DIRECT reads to and writes from.
#pragma once

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

  // Not cleared; `bytes` is a multiple of kBlockAlignment.
  static AlignedBlock Make(size_t bytes) {
    AlignedBlock block;
    block.data.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockAlignment, bytes)));
    return block;
  }
};

}  // namespace minimo

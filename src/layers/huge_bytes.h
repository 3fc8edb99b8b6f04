// Anonymous memory in huge pages where the system gives them: for weights and the KV cache, which a step walks through.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace minimo {

class HugeBytes {
 public:
  // Null where there is no memory. Small pages where rows of one matrix shall lie on several memory nodes: half of an
  // expert of 4.7 MB in pages of 2 MB would lie on the wrong one.
  static std::shared_ptr<HugeBytes> Map(int64_t bytes, bool huge) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    madvise(memory, static_cast<size_t>(bytes), huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return std::shared_ptr<HugeBytes>(new HugeBytes(static_cast<std::byte*>(memory), bytes));
  }
  ~HugeBytes() { munmap(data_, static_cast<size_t>(bytes_)); }
  HugeBytes(const HugeBytes&) = delete;
  HugeBytes& operator=(const HugeBytes&) = delete;
  std::byte* data() const { return data_; }
  int64_t size() const { return bytes_; }

 private:
  HugeBytes(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_;
  int64_t bytes_;
};

}  // namespace minimo

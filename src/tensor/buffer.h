// Owned, 64-byte aligned, uninitialised memory for a fixed number of trivial elements.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace minimo {

template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(size_t size) : data_(Allocate(size)), size_(size) {}

  // Keeps the contents only if the size does not grow.
  void Reserve(size_t size) {
    if (size > size_) *this = Buffer(size);
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  static constexpr size_t kAlignment = 64;  // a cache line, an AVX-512 vector
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  static T* Allocate(size_t size) {
    const size_t bytes = (size * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    void* p = std::aligned_alloc(kAlignment, bytes ? bytes : kAlignment);
    if (p == nullptr) throw std::bad_alloc();
    return static_cast<T*>(p);
  }

  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace minimo

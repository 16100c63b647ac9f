// Memory that a worker keeps from one picture to the next.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

namespace understudy {

// Room for numbers, aligned for any vector. It only grows; what is new in it is 0.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() { ::operator delete(data_, std::align_val_t{64}); }

  // At least `size` numbers; if there were fewer, all of them are 0 now. Throws std::bad_alloc.
  T* need(size_t size) {
    if (size > size_) {
      if (size > static_cast<size_t>(-1) / 2 / sizeof(T)) throw std::bad_alloc();
      void* fresh = ::operator new(size * sizeof(T), std::align_val_t{64});
      ::operator delete(data_, std::align_val_t{64});
      data_ = static_cast<T*>(fresh);
      size_ = size;
      clear();
    }
    return data_;
  }

  T* data() { return data_; }
  void clear() {
    if (size_) std::memset(data_, 0, size_ * sizeof(T));
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace understudy
